"""WHAT is reused: attaches one policy to one diffusers pipeline. Knows tensors and architectures, names no
method.
"""
