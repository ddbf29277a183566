"""PyTorch: transformers' models and PEFT's LoRA layers behind the seam of `toolkit.protocols`."""

import os
import sys

if sys.platform == "darwin":  # before Metal is loaded; why: toolkit/mlx_backend/loading.py
    os.environ.setdefault("AGX_RELAX_CDM_CTXSTORE_TIMEOUT", "1")
