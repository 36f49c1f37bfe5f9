"""Offer lightning-graceful's losses, callbacks and old groups, and only these, to every Hydra application."""

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.plugins.search_path_plugin import SearchPathPlugin

# Group -> the configs in it that make sense in another project; None for all.
OFFERED = {
    "losses": None,
    "callbacks": {"old_outputs", "flips", "dashboard", "history", "pareto", "stopping"},
    "old": {"checkpoint", "weights"},
}


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
        return (config_path == "" or config_path.strip("/") in OFFERED) and super().is_group(config_path)

    def is_config(self, config_path: str) -> bool:
        """Return whether a config is offered."""
        return _offered(config_path) and super().is_config(config_path)

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Return what is offered in a group: what ``--help`` shows."""
        group = config_path.strip("/")
        found = super().list(config_path, results_filter)
        return [name for name in found if (group in OFFERED and _offered(f"{group}/{name}")) or name in OFFERED]


class GracefulSearchPath(SearchPathPlugin):
    """Append the source, after the application's own."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the source."""
        search_path.append(provider="lightning-graceful", path="graceful://")


def _offered(config_path: str) -> bool:
    group, _, name = config_path.strip("/").removesuffix(".yaml").partition("/")
    names = OFFERED.get(group, set())
    return names is None or name in names
