"""Deep generative models, from the equation to the sample: the library behind the notebooks.

The folders are the syllabus: `latent` (chapter 7.1), `adversarial` (7.2) and `autoregressive` (7.3) hold one
module a lecture. Around them stand `data` (one door to every data set), `training` (one loop for every
algorithm), `metrics`, `plotting` and `widgets`. Nothing heavy is imported here.
"""

__version__ = "0.1.0"
