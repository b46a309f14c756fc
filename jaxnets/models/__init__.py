"""Models as a frozen config and two functions: `init_x(key, config)`, `x(params, config, …)`."""

from jaxnets.models import decode
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
from jaxnets.models.efficientnet import (
    EfficientNetConfig,
    Stage,
    efficientnet,
    efficientnet_features,
    init_efficientnet,
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
from jaxnets.models.rnn import RNNConfig, init_rnn, rnn, rnn_with_carry, zero_rnn_carry
from jaxnets.models.signal_cnn import SignalCNNConfig, init_signal_cnn, signal_cnn
from jaxnets.models.summary import flops, summary
from jaxnets.models.transformer import (
    continue_transformer,
    encoder,
    init_encoder,
    init_transformer,
    transformer,
    transformer_caches,
)
from jaxnets.models.transformer_block import TransformerConfig
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
    "EfficientNetConfig",
    "GANConfig",
    "Gaussian",
    "MLPConfig",
    "RNNConfig",
    "ResNetConfig",
    "SignalCNNConfig",
    "Stage",
    "TransformerConfig",
    "UNetConfig",
    "VAEConfig",
    "ancestral_sample",
    "autoencoder",
    "cifar_resnet",
    "clean_and_noise",
    "cnn",
    "continue_transformer",
    "cosine_noise",
    "ddim_sample",
    "decode",
    "decode_image",
    "denoising_loss",
    "diffusion_loss",
    "discriminator",
    "drop_label",
    "efficientnet",
    "efficientnet_features",
    "encode_image",
    "encoder",
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
    "init_efficientnet",
    "init_encoder",
    "init_generator",
    "init_mlp",
    "init_resnet",
    "init_rnn",
    "init_signal_cnn",
    "init_transformer",
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
    "rnn",
    "rnn_with_carry",
    "sample_vae",
    "signal_and_noise",
    "signal_cnn",
    "spaced_steps",
    "summary",
    "time_features",
    "transformer",
    "transformer_caches",
    "unet",
    "vae",
    "zero_rnn_carry",
]
