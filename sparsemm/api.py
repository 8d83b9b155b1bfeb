"""Use one method with `model.generate`, without sweeps: `make_cache`."""

from transformers import PreTrainedModel

from sparsemm.cache import RaggedCache
from sparsemm.cli import register
from sparsemm.config import Settings, build_method, nearest
from sparsemm.engine.attention import use_ragged_attention
from sparsemm.engine.select import Selector
from sparsemm.methods.base import Method, ModelShape


def make_method(name: str, *overrides: str) -> Method:
    """A method of conf/method by name, with overrides as on the command line: "budget=64", "rho=0.2".

    Raises:
        ValueError: an unknown method, key or value.
    """
    return build_method(compose_settings(f"method={name}", *overrides))


def compose_settings(*overrides: str) -> Settings:
    """All settings of one run, with overrides as on the command line: "method=snapkv", "model.dtype=float32".

    Raises:
        ValueError: an unknown option or key.
    """
    from hydra import compose, initialize_config_module
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.singleton import Singleton
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    register()
    outer = Singleton.get_state()  # of a Hydra application that calls us
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module("sparsemm.conf", version_base="1.3"):
            loader = GlobalHydra.instance().config_loader()
            settings = OmegaConf.to_container(compose("run", list(overrides)), resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        for key, _, value in (override.partition("=") for override in overrides):
            known = loader.get_group_options(key)
            if known and value not in known:
                reason += f".{nearest(value, known)} There are: {', '.join(known)}"
        raise ValueError(f"{' '.join(overrides)}: {reason}. See sparsemm run --help.") from None
    finally:
        Singleton.set_state(outer)
    assert isinstance(settings, dict)
    return {str(key): value for key, value in settings.items()}


def make_cache(model: PreTrainedModel, method: Method | str, *overrides: str, room: int = 128) -> RaggedCache:
    """A cache for `model.generate(..., past_key_values=cache)`: one conversation, one method.

    The model's text layers are switched to the attention that reads it (see `use_ragged_attention`); with an
    ordinary cache the model goes on as before.

    Args:
        model: a loaded model of a supported family.
        method: a Method, or a name in conf/method with overrides such as "budget=64", "method.window=32",
            "model.head_scores=heads.json".
        overrides: as on the command line.
        room: tokens to come that are stored without laying the cache out anew.

    Raises:
        ValueError: a method that cannot be, or does not fit the model.
    """
    chosen = make_method(method, *overrides) if isinstance(method, str) else method
    text = model.config.get_text_config()
    dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    shape = ModelShape(text.num_hidden_layers, text.num_attention_heads, text.num_key_value_heads, dim)
    if not str(text._attn_implementation).startswith("ragged_"):
        use_ragged_attention(model)
    return RaggedCache(Selector([chosen], shape), shape.layers, room)
