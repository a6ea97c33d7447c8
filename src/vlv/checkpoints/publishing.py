"""Model folders on the Hugging Face Hub."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vlv.errors import CheckpointError


def publish(
    save: Callable[[Path], None],
    repo_id: str,
    *,
    commit_message: str = "Upload a VLV",
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
) -> str:
    """Upload the model folder that `save` writes to a repository of the Hub, which is made if there
    is none, and return the address of the commit. The login is that of `hf auth login`.

    Raises CheckpointError where the Hub does not take it.
    """
    from huggingface_hub import HfApi

    hub = HfApi(token=token)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        save(folder)
        try:
            name = hub.create_repo(repo_id, private=private, exist_ok=True).repo_id
            if revision is not None:
                hub.create_branch(name, branch=revision, exist_ok=True)
            commit: Any = hub.upload_folder(
                repo_id=name,
                folder_path=folder,
                commit_message=commit_message,
                revision=revision,
                create_pr=create_pr,
            )
        except Exception as error:  # whatever the Hub answers, or its HTTP library raises
            raise CheckpointError(
                f"the model could not be uploaded to {repo_id} "
                f"({' '.join(str(error).split())[:200]}); log in with `hf auth login` and check "
                "that the repository is yours"
            ) from error
    return str(commit.commit_url)
