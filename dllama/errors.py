"""All errors that dllama raises on purpose.

    DllamaError
    |-- ConfigError (ValueError)        an option, argument or YAML key is wrong
    |-- FormatError (ValueError)        a file is not what its format says
    |-- UnsupportedError (ValueError)   valid input that dllama cannot run
    |-- TemplateError (ValueError)      a chat template is missing, broken, or refuses the messages
    |-- ModelError (RuntimeError)       a model cannot be loaded or evaluated
    |   |-- ContextError                the tokens do not fit in the context
    |   `-- GrammarError                a grammar has become too complex to go on with
    |-- TransportError (ConnectionError)  a link to another node failed
    |   |-- TransportTimeoutError (TimeoutError)  no byte moved in time
    |   `-- ExhaustedError              no file or no memory is left for a connection
    |-- ProtocolError (ValueError)      another node broke the protocol
    |   `-- NodeError                     another node reports that it cannot continue
    |-- AuthenticationError (PermissionError)  another node did not prove the secret
    |-- InputError (OSError)            a text or configuration cannot be read
    `-- OutputError (OSError)           a file cannot be written

The command line prints any of them as one line and exits with status 1
(ConfigError: 2). Each also inherits the nearest built-in exception.
"""

from __future__ import annotations

MOST = 2000  # characters of a message; what comes from a file may be of any length


class DllamaError(Exception):
    """Base of all errors that dllama raises on purpose; a long message lacks its middle."""

    def __str__(self) -> str:
        text = super().__str__()
        return text if len(text) <= MOST else f"{text[: MOST // 2]} ... {text[5 - MOST // 2 :]}"


class ConfigError(DllamaError, ValueError):
    """An option, argument or configuration key is wrong; the message names it."""


class FormatError(DllamaError, ValueError):
    """A file breaks its format; the message names file, field, found, expected."""

    def __init__(self, path: object, field: str, found: object, expected: object) -> None:
        super().__init__(f"{path}: {field} is {found}, expected {expected}")
        self.path = str(path)
        self.field = field
        self.found = found
        self.expected = expected


class UnsupportedError(DllamaError, ValueError):
    """The input is valid, but asks for something dllama does not implement."""


class TemplateError(DllamaError, ValueError):
    """A chat template is missing or broken, or refuses the messages; the message names it."""


class ModelError(DllamaError, RuntimeError):
    """A model cannot be loaded or evaluated."""


class ContextError(ModelError):
    """The tokens do not fit in the context; nothing was evaluated."""


class GrammarError(ModelError):
    """A grammar has become too complex to go on with; the text ends."""


class TransportError(DllamaError, ConnectionError):
    """A link to another node failed or cannot be made; the message names the node.

    Attributes:
        rank: of the worker at fault; None if it is not known.
    """

    rank: int | None = None


class TransportTimeoutError(TransportError, TimeoutError):
    """No byte moved over a link within the timeout."""


class ExhaustedError(TransportError):
    """There is no file or no memory left for a connection now; there may be later."""


class ProtocolError(DllamaError, ValueError):
    """Another node sent a message that the protocol does not allow.

    Attributes:
        rank: of the worker at fault; None if it is not known.
    """

    rank: int | None = None


class NodeError(ProtocolError):
    """Another node reports that it cannot continue.

    Args:
        message: its error message.
        blames: rank of the node that it blames, or None.
        late: whether it blames that node for not replying in time.
    """

    def __init__(self, message: str, blames: int | None = None, late: bool = False) -> None:
        super().__init__(message)
        self.blames = blames
        self.late = late


class AuthenticationError(DllamaError, PermissionError):
    """Another node did not prove that it knows the secret."""


class InputError(DllamaError, OSError):
    """A file named in an option cannot be read; the message names both."""


class OutputError(DllamaError, OSError):
    """A file cannot be written; nothing was left under its final name."""
