"""Where the configs are, and how Hydra finds them."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent


def conf_dir() -> Path:
    """Return the folder of the Hydra configs: inside the package in a wheel, beside it in a checkout.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: If it is in neither place.

    Example:
        >>> (conf_dir() / "train.yaml").exists()
        True
    """
    for place in (PACKAGE / "conf", PACKAGE.parent / "conf"):
        if (place / "train.yaml").is_file():
            return place
    raise FileNotFoundError(f"Expected conf/ in or beside {PACKAGE}, found neither. Install lightning-graceful again.")


def register() -> None:
    """Offer the groups ``losses``, ``callbacks`` and ``old`` to any Hydra application in this process.

    With lightning-graceful installed, or its checkout on the path, Hydra finds the plugin by itself and this call does
    nothing. It helps where Hydra's search does not reach ``hydra_plugins``, as in a frozen application.

    Example:
        >>> register()
    """
    from hydra.core.plugins import Plugins

    # Hydra's own search comes first: it executes the plugin's module anew, and classes taken before would count twice.
    plugins = Plugins.instance()

    from hydra_plugins.lightning_graceful_searchpath import GracefulConfigSource, GracefulSearchPath

    plugins.register(GracefulSearchPath)
    plugins.register(GracefulConfigSource)
