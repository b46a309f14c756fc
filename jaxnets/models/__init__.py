"""Models as a frozen config and two functions: `init_x(key, config)`, `x(params, config, …)`."""

from jaxnets.models.autoencoder import (
    AutoencoderConfig,
    autoencoder,
    decode_image,
    denoising_loss,
    encode_image,
    gaussian_noise,
    init_autoencoder,
    masking_noise,
)
from jaxnets.models.cnn import CNNConfig, cnn, init_cnn
from jaxnets.models.diffusion import (
    Gaussian,
    ancestral_sample,
    clean_and_noise,
    cosine_noise,
    ddim_sample,
    diffusion_loss,
    linear_noise,
    posterior_step,
    signal_and_noise,
    spaced_steps,
)
from jaxnets.models.flow import flow_loss, flow_sample
from jaxnets.models.gan import (
    GANConfig,
    discriminator,
    gan_losses,
    generator,
    init_discriminator,
    init_generator,
)
from jaxnets.models.guidance import drop_label, guided
from jaxnets.models.mlp import MLPConfig, init_mlp, mlp
from jaxnets.models.resnet import (
    ResNetConfig,
    cifar_resnet,
    imagenet_resnet,
    init_resnet,
    resnet,
)
from jaxnets.models.summary import flops, summary
from jaxnets.models.unet import UNetConfig, init_unet, time_features, unet
from jaxnets.models.vae import (
    VAEConfig,
    init_vae,
    negative_elbo,
    posterior,
    reparameterize,
    sample_vae,
    vae,
)

__all__ = [
    "AutoencoderConfig",
    "CNNConfig",
    "GANConfig",
    "Gaussian",
    "MLPConfig",
    "ResNetConfig",
    "UNetConfig",
    "VAEConfig",
    "ancestral_sample",
    "autoencoder",
    "cifar_resnet",
    "clean_and_noise",
    "cnn",
    "cosine_noise",
    "ddim_sample",
    "decode_image",
    "denoising_loss",
    "diffusion_loss",
    "discriminator",
    "drop_label",
    "encode_image",
    "flops",
    "flow_loss",
    "flow_sample",
    "gan_losses",
    "gaussian_noise",
    "generator",
    "guided",
    "imagenet_resnet",
    "init_autoencoder",
    "init_cnn",
    "init_discriminator",
    "init_generator",
    "init_mlp",
    "init_resnet",
    "init_unet",
    "init_vae",
    "linear_noise",
    "masking_noise",
    "mlp",
    "negative_elbo",
    "posterior",
    "posterior_step",
    "reparameterize",
    "resnet",
    "sample_vae",
    "signal_and_noise",
    "spaced_steps",
    "summary",
    "time_features",
    "unet",
    "vae",
]
