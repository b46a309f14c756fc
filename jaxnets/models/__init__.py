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
from jaxnets.models.gan import (
    GANConfig,
    discriminator,
    gan_losses,
    generator,
    init_discriminator,
    init_generator,
)
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
    "MLPConfig",
    "ResNetConfig",
    "UNetConfig",
    "VAEConfig",
    "autoencoder",
    "cifar_resnet",
    "cnn",
    "decode_image",
    "denoising_loss",
    "discriminator",
    "encode_image",
    "flops",
    "gan_losses",
    "gaussian_noise",
    "generator",
    "imagenet_resnet",
    "init_autoencoder",
    "init_cnn",
    "init_discriminator",
    "init_generator",
    "init_mlp",
    "init_resnet",
    "init_unet",
    "init_vae",
    "masking_noise",
    "mlp",
    "negative_elbo",
    "posterior",
    "reparameterize",
    "resnet",
    "sample_vae",
    "summary",
    "time_features",
    "unet",
    "vae",
]
