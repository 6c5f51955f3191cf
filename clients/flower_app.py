r"""For those who must run a stock `flower-supernode`: it hands bytes to the daemon and back.

This is the slower and the weaker way. `clients.flower_node` is the other one.

Slower: a stock SuperNode looks for messages every three seconds and starts processes for each.

Weaker: a stock SuperNode runs what the SuperLink sends. Of our coordinator that is a bundle without
code, which names the `app` of this installed module. But the SuperNode unpacks every bundle into
FLWR_HOME, puts that directory first where Python looks for modules, and imports what the bundle
names. A hostile SuperLink sends a bundle with a package `clients` of its own, and that code runs as
the SuperNode's user. `--trusted-entities` does not help: it takes signatures of Flower's hub only.
Our own protocol holds all the same (requests and replies are signed and sealed in the daemon), but
that code may read every file that this user may read: the daemon's keys, ledger and table. So give
the SuperNode a system of its own to see (a container, or systemd's `InaccessiblePaths=` and
`BindPaths=`), where the daemon's socket is and its state directory is not.

The daemon has `carrier = "socket"` in its configuration and opens no connection; its socket is
`socket/daemon` in the state directory. Then, with the directory of `flower-superexec` in PATH:

    FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1 FLWR_HOME=DIRECTORY flower-supernode \
        --superlink HOST:PORT --root-certificates ca.pem \
        --auth-supernode-private-key NODE_KEY \
        --isolation subprocess --host 127.0.0.1 --port UNUSED \
        --node-config 'socket="STATE/socket/daemon"'

NODE_KEY is a copy of the state directory's `node.key`, which vouches for nothing. Without
`--allow-runtime-dependency-installation` it installs nothing. `--port` is of an interface
that every process on the machine may reach without a key, another one for each SuperNode.
"""

import logging
from pathlib import Path
from typing import Final

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from clients.socket_carrier import ask
from federation.errors import ConfigurationError

RECORD: Final = "fedscore"
"""Name of the one record, and of the one value in it, that a message has."""

SOCKET: Final = "socket"
"""Name of the daemon's socket in the SuperNode's own configuration: no bundle can change it."""

app: Final = ClientApp()

_log = logging.getLogger(__name__)


@app.query()
def carry(message: Message, context: Context) -> Message:
    """Returns the daemon's reply to a message; a message without our record if it has none.

    Raises:
        ConfigurationError: the SuperNode was not told where the socket is, or nobody listens.
            Flower tells the coordinator, who asks again until its deadline.
        ProtocolError: the reply broke off; likewise.
    """
    path = context.node_config.get(SOCKET)
    if not isinstance(path, str):
        raise ConfigurationError(f"Start flower-supernode with --node-config '{SOCKET}=\"PATH\"'.")
    record = message.content.get(RECORD)
    request = record.get(RECORD) if isinstance(record, ConfigRecord) else None
    if not isinstance(request, bytes):
        return Message(RecordDict(), reply_to=message)
    try:
        reply = ask(Path(path), request)
    except OSError as error:
        _log.error("no answer from the daemon at %s: %s", path, error)
        raise ConfigurationError("The daemon was not reached.") from error
    said = RecordDict({RECORD: ConfigRecord({RECORD: reply})}) if reply else RecordDict()
    return Message(said, reply_to=message)
