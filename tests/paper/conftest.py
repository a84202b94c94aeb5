"""The same small models and random images that the engine is tested on."""

from ..study.conftest import cell_cache, load_images, make_images, make_model, one_thread

__all__ = ["cell_cache", "load_images", "make_images", "make_model", "one_thread"]
