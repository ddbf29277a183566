"""MLX: scorers and trainers on mlx-lm's models, behind the protocols of `toolkit.protocols`.

File by file the twin of `torch_backend`: the same public names, in the same order.
"""

from toolkit.mlx_backend import loading as loading  # before any other import of MLX: it decides which BLAS MLX gets
