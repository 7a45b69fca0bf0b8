"""Adversarial models: chapter 7.2, one module a lecture.

A generator learns from a second network that tries to tell its samples from data. `gan` holds the theory (optimal
discriminator, divergences, the game's value) and the one adversarial step that all the others share.
"""
