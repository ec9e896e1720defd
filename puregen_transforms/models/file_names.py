"""Names of the files in the official layouts of a checkpoint.

An EBM is `config.json` beside `model.safetensors`. A DDPM is laid out as diffusers saves it: a pipeline
(`model_index.json`, `unet/`, `scheduler/`) or a bare network, `config.json` beside
`diffusion_pytorch_model.safetensors`. A denoiser is `config.json` beside `denoiser.safetensors`. A classifier
is `config.json` beside `model.safetensors`, as an EBM.
"""

CONFIG_FILE = "config.json"
EBM_WEIGHTS_FILE = "model.safetensors"
CLASSIFIER_WEIGHTS_FILE = "model.safetensors"
DENOISER_WEIGHTS_FILE = "denoiser.safetensors"
UNET_WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"
HALF_UNET_WEIGHTS_FILE = "diffusion_pytorch_model.fp16.safetensors"
UNET_FOLDER = "unet"
SCHEDULER_FOLDER = "scheduler"
SCHEDULE_FILE = "scheduler_config.json"
INDEX_FILE = "model_index.json"
