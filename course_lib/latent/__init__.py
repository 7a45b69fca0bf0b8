"""Latent-variable models (chapter 7.1): PCA, autoencoders, and the variational family.

One module a lecture: `pca` (01), `autoencoder` (02), `vae` (03) and their successors. Every model maps data x
to a short code z and back; from the VAE on, both directions are probability distributions.
"""
