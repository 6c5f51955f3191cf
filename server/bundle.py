"""The application bundle that a run of Flower needs: names, and nothing to execute."""

import hashlib
import io
import zipfile
from typing import Final

_PROJECT: Final = """\
[project]
name = "fedscore"
version = "1.0.0"
[tool.flwr.app]
publisher = "fedscore"
[tool.flwr.app.components]
serverapp = "nothing:app"
clientapp = "clients.flower_app:app"
"""


def bundle_content() -> bytes:
    """Returns the archive in the form that a SuperNode unpacks, always the same bytes.

    Our own nodes never fetch it, and no SuperLink executes it. A stock SuperNode imports the module
    it names from what the institution has installed.
    """
    digest = hashlib.sha256(_PROJECT.encode()).hexdigest()
    manifest = f"pyproject.toml,{digest},{len(_PROJECT) * 8}"
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as bundle:
        bundle.writestr(zipfile.ZipInfo("pyproject.toml"), _PROJECT)
        bundle.writestr(zipfile.ZipInfo(".info/CONTENT"), manifest)
    return archive.getvalue()
