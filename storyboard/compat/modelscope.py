"""ModelScope's client with time limits, and streams that restore the libraries they change.

``MsDataset.load(use_streaming=True)`` of modelscope 1.40 replaces methods of huggingface_hub and
datasets by its own and leaves them replaced, because a stream needs them until it ends: every later
call of Hugging Face's client then asks ModelScope.

Further faults of its stream that are repaired here:

- a size of 0 in a hub's listing, which means "not listed", reads as an empty file;
- the endpoint comes from ``MODELSCOPE_DOMAIN`` alone;
- ``metadata.jsonl`` in a folder of pictures is left out, and with it the captions;
- a page of files that fails ends the listing without an error;
- without a network, it tries for more than ten minutes before it says so.
"""

import inspect
import logging
import mimetypes
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial

from storyboard.compat import guard

REVISION = "master"  # the only one that is read here

TIMEOUT = 8  # seconds without a byte
# of huggingface_hub's requests: three tries, with TIMEOUT about 30 s in all
RETRIES = {"max_retries": 2, "base_wait_time": 2}
# of ModelScope's own client, which waits longer between tries
CLIENT_LIMITS = {"timeout": TIMEOUT, "max_retries": 1}


def api(endpoint: str | None = None):
    """ModelScope's client, which gives up after about 30 s.

    Args:
        endpoint: None takes the present value of ``MODELSCOPE_ENDPOINT``.
    """
    from modelscope.hub.api import HubApi

    return HubApi(endpoint=endpoint or os.environ.get("MODELSCOPE_ENDPOINT"), **CLIENT_LIMITS)


@contextmanager
def stream(
    dataset_id: str,
    split: str,
    sizes: Mapping[str, int],
    endpoint: str,
) -> Iterator[tuple[Iterable[dict], dict[str, int] | None]]:
    """Rows of ``split``, and the sizes of the files that they are read from.

    The sizes are None where the client does not say which files those are. What is replaced inside,
    in huggingface_hub, datasets and modelscope, is as before afterwards.

    Args:
        sizes: Bytes of every file of the data set; 0 where it is not listed. Such a size is then
            requested, except for pictures, whose size a reader does not need.
    """
    from huggingface_hub import HfFileSystem
    from modelscope.msdatasets import MsDataset
    from modelscope.msdatasets.utils import hf_datasets_util

    builders = []

    def recording(*arguments, **named):
        builders.append(load_builder(*arguments, **named))
        return builders[-1]

    sizes = dict(sizes)
    wrapper = hf_datasets_util.DatasetsWrapperHF
    load_builder = wrapper.load_dataset_builder

    with ExitStack() as stack:
        # its instances remember the listing
        stack.callback(HfFileSystem.clear_instance_cache)
        for owner, name in _replaced():
            guard.require("modelscope", owner, name)
            stack.callback(setattr, owner, name, inspect.getattr_static(owner, name))
        _replace(sizes, endpoint)
        wrapper.load_dataset_builder = staticmethod(recording)
        HfFileSystem.clear_instance_cache()

        rows = MsDataset.load(dataset_id, split=split, use_streaming=True)
        files = _files(builders, split, sizes)
        unknown = [name for name in files or sizes if not sizes[name] and not _is_picture(name)]
        if unknown:
            sizes |= {name: _size(endpoint, dataset_id, name) for name in unknown}
            HfFileSystem.clear_instance_cache()
        yield rows, files and {name: sizes[name] for name in files}


def _replaced() -> list[tuple[object, str]]:
    """(owner, name) of everything that modelscope's client or ``stream`` replaces."""
    import datasets
    from datasets import DownloadManager, data_files
    from datasets.features import features
    from datasets.load import HubDatasetModuleFactory
    from datasets.utils import file_utils
    from huggingface_hub import HfApi, HfFileSystem, constants, hf_file_system
    from modelscope.hub import api as hub_api
    from modelscope.msdatasets.utils import _module_factories, hf_datasets_util

    config = ("HF_ENDPOINT", "STREAMING_READ_MAX_RETRIES", "STREAMING_READ_RETRY_INTERVAL")
    config += ("STREAMING_OPEN_MAX_RETRIES", "STREAMING_OPEN_RETRY_INTERVAL")
    client = (
        "get_endpoint",
        "_list_repo_tree",
        "_get_paths_info",
        "_hf_fs_open_original",
        "_hf_fs_init_original",
    )
    names = {
        HfApi: ("dataset_info", "list_repo_tree", "get_paths_info"),
        HfFileSystem: ("_open", "__init__"),
        hf_file_system: ("http_backoff", "http_stream_backoff"),
        constants: ("HF_HUB_DOWNLOAD_TIMEOUT",),
        datasets.config: config,
        data_files: ("resolve_pattern",),
        data_files.DataFilesDict: ("filter",),
        features: ("generate_from_dict",),
        file_utils: ("get_from_cache",),
        DownloadManager: ("_download_single",),
        HubDatasetModuleFactory: ("get_module",),
        hf_datasets_util: client,
        hf_datasets_util.DatasetsWrapperHF: ("load_dataset_builder",),
        _module_factories: ("_hub_api",),
        hub_api: ("HubApi",),
        logging.getLogger("modelscope"): ("disabled",),
    }
    return [(owner, name) for owner, several in names.items() for name in several]


def _replace(sizes: Mapping[str, int], endpoint: str) -> None:
    """Take listings from ``sizes``, ask ``endpoint`` with a time limit, log nothing."""
    import datasets
    from datasets.data_files import DataFilesDict
    from datasets.packaged_modules import _MODULE_TO_EXTENSIONS, _MODULE_TO_METADATA_FILE_NAMES
    from huggingface_hub import constants, hf_file_system
    from huggingface_hub.hf_api import RepoFile, RepoFolder
    from modelscope.hub import api as hub_api
    from modelscope.msdatasets.utils import _module_factories, hf_datasets_util

    client = api(endpoint)

    def list_repo_tree(_api, repo_id, path_in_repo=None, *, recursive=True, **_):
        return iter(_entries(sizes, path_in_repo or "", recursive))

    def get_paths_info(_api, repo_id, paths, **_):
        names = [paths] if isinstance(paths, str) else paths
        files = [RepoFile(path=name, size=sizes[name], oid="") for name in names if name in sizes]
        folders = [name for name in names if any(path.startswith(f"{name}/") for path in sizes)]
        return files + [RepoFolder(path=name, oid="") for name in folders]

    def with_metadata(files, *, extensions=None, file_names=None, choose=DataFilesDict.filter):
        modules = [
            module
            for module, its_extensions in _MODULE_TO_EXTENSIONS.items()
            if its_extensions == extensions
        ]
        names = [name for module in modules for name in _MODULE_TO_METADATA_FILE_NAMES[module]]
        return choose(files, extensions=extensions, file_names=file_names or names or None)

    DataFilesDict.filter = with_metadata
    hf_datasets_util.get_endpoint = lambda *_, **__: endpoint
    hf_datasets_util._list_repo_tree = list_repo_tree
    hf_datasets_util._get_paths_info = get_paths_info
    _module_factories._hub_api = client
    # by itself it remembers the first endpoint of the process
    hub_api.HubApi = lambda *_, **__: client
    hf_file_system.http_backoff = partial(hf_file_system.http_backoff, **RETRIES)
    hf_file_system.http_stream_backoff = partial(hf_file_system.http_stream_backoff, **RETRIES)
    constants.HF_HUB_DOWNLOAD_TIMEOUT = TIMEOUT
    datasets.config.STREAMING_READ_MAX_RETRIES = datasets.config.STREAMING_OPEN_MAX_RETRIES = 1
    datasets.config.STREAMING_READ_RETRY_INTERVAL = 0
    datasets.config.STREAMING_OPEN_RETRY_INTERVAL = 0
    logging.getLogger("modelscope").disabled = True


def _entries(sizes: Mapping[str, int], folder: str, recursive: bool) -> list:
    """Files and folders below ``folder``, as Hugging Face's client has them."""
    from huggingface_hub.hf_api import RepoFile, RepoFolder

    inside = f"{folder.strip('/')}/".lstrip("/")
    below = [name for name in sizes if name.startswith(inside)]
    files = [name for name in below if recursive or "/" not in name.removeprefix(inside)]
    folders = {}
    for name in below:
        parts = name.removeprefix(inside).split("/")[:-1]
        for depth in range(1, (len(parts) if recursive else min(1, len(parts))) + 1):
            folders[inside + "/".join(parts[:depth])] = None
    entries = [RepoFile(path=name, size=sizes[name], oid="") for name in files]
    return [RepoFolder(path=name, oid="") for name in folders] + entries


def _files(builders: list, split: str, sizes: Mapping[str, int]) -> list[str] | None:
    """Paths in the data set that the last builder reads for ``split``.

    None where one of them is not in the listing.
    """
    data_files = (getattr(builders[-1].config, "data_files", None) if builders else None) or {}
    paths = [path.rpartition("::")[2] for path in data_files.get(split, ())]
    names = [path.partition(f"@{REVISION}/")[2] for path in paths]
    return names if names and all(name in sizes for name in names) else None


def _is_picture(name: str) -> bool:
    return (mimetypes.guess_type(name)[0] or "").startswith("image/")


def _size(endpoint: str, dataset_id: str, name: str) -> int:
    """Bytes of a file whose size is not listed, from the answer to a HEAD request."""
    import requests
    from huggingface_hub import hf_hub_url

    url = hf_hub_url(dataset_id, name, repo_type="dataset", revision=REVISION, endpoint=endpoint)
    response = requests.head(url, allow_redirects=True, timeout=TIMEOUT)
    response.raise_for_status()
    return int(response.headers.get("Content-Length") or 0)
