"""Files to a repository of the hub, in one commit: it has all of them or none, whatever breaks off."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pyiqa_rali.core.errors import CheckpointError, first_line
from pyiqa_rali.core.hub import endpoint_of_hub, is_hub_name
from pyiqa_rali.core.messages import are_shown

REASONS = {401: 'the hub refuses the token: it is wrong, or has expired',
           403: 'the token may not write there: it needs write access to this owner and repository',
           404: 'the hub does not know the owner, the repository or the branch',
           413: 'the files are too large for the hub'}
WHOLE_OR_NOTHING = ('The files appear by one commit at the end, so the repository has all of them or none. Run the command '
                    'again: what has arrived is not sent twice.')


@dataclass(frozen=True)
class Pushed:
    """A commit on the hub.

    Attributes:
        repository: 'owner/name'.
        commit: 40 hexadecimal digits, which `revision` takes.
        address: of the commit, for a browser.
    """

    repository: str
    commit: str
    address: str


def check_repository(repository: str) -> None:
    """Raise CheckpointError unless this is 'owner/name'."""
    if not is_hub_name(repository) or ':' in repository:
        raise CheckpointError(f'{repository}: is not the name of a repository; give owner/name.')


def push_files(repository: str, files: Mapping[str, bytes | Path], message: str, private: bool = False,
               revision: str | None = None) -> Pushed:
    """Write files to a model repository of the hub, which is made if it is not there.

    The token is the hub client's own: the environment variable HF_TOKEN, or what `hf auth login` has kept.

    Args:
        repository: 'owner/name'.
        files: content, or the file that holds it, by the path in the repository.
        message: of the commit.
        private: of a repository that is made now, whether others cannot see it.
        revision: an existing branch; None means the main branch.

    Raises:
        CheckpointError: the hub cannot be reached, refuses the token, or the upload breaks off; the token is in no message.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token
    check_repository(repository)
    token = get_token()
    if token is None:
        raise CheckpointError(f'{repository}: there is no token for the hub. Log in with "hf auth login", or set HF_TOKEN.')
    if constants.HF_HUB_OFFLINE:
        raise CheckpointError(f'{repository}: HF_HUB_OFFLINE is set, so nothing can be uploaded. Unset it.')
    endpoint = endpoint_of_hub()
    api = HfApi(endpoint=endpoint, token=token)
    begun = False
    with _bars_of_the_hub():
        try:
            api.create_repo(repository, private=private or None, exist_ok=True)
            begun = True
            additions = [CommitOperationAdd(name, content if isinstance(content, bytes) else os.fspath(content))
                         for name, content in files.items()]
            commit = api.create_commit(repository, additions, commit_message=message, revision=revision)
        except Exception as error:  # the client's own classes, and those of whichever transport it uses
            told = REASONS.get(_status_of(error) or 0) or f'{type(error).__name__}: {first_line(error)}'
            raise CheckpointError(f'{repository}: cannot be written at {endpoint}: {told.replace(token, "***")}. '
                                  + (WHOLE_OR_NOTHING if begun else 'Nothing was changed.')) from None
    return Pushed(repository, commit.oid, str(commit.commit_url))


def _status_of(error: BaseException) -> int | None:
    """Return the status of the answer of HTTP that is behind an error."""
    found: BaseException | None = error
    while found is not None:
        status = getattr(getattr(found, 'response', None), 'status_code', None)
        if status is not None:
            return int(status)
        found = found.__cause__ or found.__context__
    return None


@contextlib.contextmanager
def _bars_of_the_hub() -> Iterator[None]:
    """Let the bars of the hub's client follow our switch."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    if are_shown() or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
