"""Offer lightning-graceful's losses, callbacks and old groups, and only these, to every Hydra application."""

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

OFFERED = ("losses", "callbacks", "old")


class GracefulConfigSource(FileConfigSource):
    """Configs of lightning-graceful under the scheme ``graceful://``; other groups stay out of sight."""

    def __init__(self, provider: str, path: str) -> None:
        from lightning_graceful.experiment.searchpath import conf_dir

        super().__init__(provider=provider, path=f"{self.scheme()}://{conf_dir()}")

    @staticmethod
    def scheme() -> str:
        """Return the scheme."""
        return "graceful"

    def is_group(self, config_path: str) -> bool:
        """Return whether a group is offered; the root counts as one, or Hydra would call the source unavailable."""
        return (config_path == "" or _offered(config_path)) and super().is_group(config_path)

    def is_config(self, config_path: str) -> bool:
        """Return whether a config is offered."""
        return _offered(config_path) and super().is_config(config_path)


class GracefulSearchPath(SearchPathPlugin):
    """Append the source, after the application's own."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the source."""
        search_path.append(provider="lightning-graceful", path="graceful://")


def _offered(config_path: str) -> bool:
    return config_path.strip("/").split("/")[0] in OFFERED
