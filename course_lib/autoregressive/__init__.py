"""Autoregressive models: the likelihood of an image, one pixel after another (chapter 7.3).

One module a lecture; import what you need, for instance ``from course_lib.autoregressive import gated_pixelcnn``.
"""
