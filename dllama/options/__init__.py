"""The list of options: the name, type, default, range and help of each, said once.

LLM(), YAML files, messages between nodes and the command line all read this list. Checks that need
more than a value (an address, the name of a transport) are added by the layers that know them.
"""

from __future__ import annotations

from dataclasses import replace

from dllama.options.biases import parse_bias
from dllama.options.option import Option

MAX_NODES = 256
MAX_THREADS = 1024
MAX_SEED = (1 << 64) - 1
MAX_TOP_K = 1 << 31
MAX_TOKENS = 1 << 31  # to generate
DEFAULT_SEQ_LEN = 4096
DEFAULT_STEPS = 128
DEFAULT_WINDOW = 512  # tokens of `dllama perplexity`
DEFAULT_PROMPT_TOKENS = 64  # of `dllama bench`
DEMO_PROMPT = "MACBETH:\n"

# The model, and the memory and time that it takes on a node.
MODEL = Option(
    "model", str, "model folder, .m or GGUF file", metavar="PATH", short="-m",
    otherwise="the demo model",
)  # fmt: skip
TOKENIZER = Option(
    "tokenizer", str, "tokenizer folder, .t file or tokenizer.json", metavar="PATH",
    otherwise="the one beside the model", python="a model without one takes and gives ids",
)  # fmt: skip
REQUANTISE = Option(
    "requantise", bool, "convert the tensors of a GGUF file to q80 whose types dllama does not "
    "compute with (needs the package gguf)", default=False,
)  # fmt: skip
MAX_SEQ_LEN = Option(
    "max_seq_len", int, "positions of the context", metavar="N", least=1,
    otherwise=f"the model's, at most {DEFAULT_SEQ_LEN}",
)  # fmt: skip
KV_CACHE = Option(
    "kv_cache", str, "type of the numbers in the KV cache; q80 takes half the memory of f16",
    default="auto",
    choices=("auto", "q80", "f16", "f32"), otherwise="auto, which is f32 for f32 weights, else f16",
)  # fmt: skip
THREADS = Option(
    "threads", int, "threads per node", metavar="N", least=1, most=MAX_THREADS,
    otherwise="one per core, divided among the nodes of this machine",
    python="a list has one number for each node, the root first, and None for a worker's own",
)  # fmt: skip
PARALLEL = Option(
    "parallel", int, "texts that are generated at once", metavar="N", least=1, most=64, default=1,
)  # fmt: skip
DRAFT = Option(
    "draft", str, "draft tokens and check several in one pass, for the same text as without: ngram "
    "proposes what followed the same tokens before, a path is a small model that proposes (on this "
    "machine alone)", metavar="{none,ngram,PATH}", default="none",
)  # fmt: skip
DRAFT_TOKENS = Option(
    "draft_tokens", int, "most tokens to draft for a pass; fewer where that does not pay",
    metavar="N", least=1, most=63, default=15,
)  # fmt: skip
CONTEXTS = Option(
    "contexts", int, "room for the keys and values of this many texts of full length; shorter ones "
    "share it", metavar="N", least=1, most=64,
    otherwise="as many as are generated at once, at most what fits in 1 GB or a quarter of the "
    "model's size",
)  # fmt: skip
BATCH_SIZE = Option(
    "batch_size", int, "most prompt tokens of a pass", default=256, least=1, most=4096
)

# Several nodes.
GIVEN_NODES = Option(
    "nodes", int, "split the model over this many processes on this machine", default=1,
    metavar="N", least=1, most=MAX_NODES,
)  # fmt: skip
NODES = replace(
    GIVEN_NODES, word="auto", metavar="{auto,N}",
    help=f"{GIVEN_NODES.help}; auto: one for each NUMA domain, if that measures faster than one "
    "process (--threads is then of all together); with --discover, over this many machines",
)  # fmt: skip
WORKERS = Option(
    "workers", str, "split the model over workers that already run", metavar="ADDRESS",
    several=True,
)  # fmt: skip
DISCOVER = Option(
    "discover", bool, "split the model over all free workers of the local network that announce "
    "themselves and know the secret, in the order of their names", default=False,
    python="nodes says how many, this one included",
)  # fmt: skip
TRANSPORT = Option(
    "transport", str, "how nodes are connected: blocking, nonblocking, unix, mpi (nodes are "
    "what mpirun starts), or one that is installed", metavar="NAME",
    otherwise="unix for nodes of this machine, else what the addresses say",
)  # fmt: skip
BUFFER = Option(
    "buffer", str, "type of the numbers that nodes add up: 8 or 6 bits with a scale for 32 "
    "numbers, or floats", choices=("q80", "q60", "f16", "f32"),
    otherwise="q80 for quantised weights, f16 if all of them are q80, f32 for floats",
)  # fmt: skip
ALL_REDUCE = Option(
    "all_reduce", str, "how nodes add up; mpi leaves it to the MPI library, in float32, with other "
    "last bits", default="auto", choices=("auto", "exchange", "two-step", "mpi"),
    otherwise="auto, by size and number of nodes",
)  # fmt: skip
SHARES = Option(
    "shares", float, "how much of the model each node holds, the root first; auto: by measured "
    "speed, without nodes that slow all down", metavar="{auto,A,B,...}", least=1e-6, most=1e6,
    commas=True, word="auto",
    otherwise="auto if the speeds of workers that already run differ by more than 10 %, else "
    "equal shares",
)  # fmt: skip
GIVEN_SHARES = replace(
    SHARES, help="how much of the model each node holds, the root first", metavar="A,B,...",
    word="", otherwise="equal shares",
)  # fmt: skip
TIMEOUT = Option(
    "timeout", float, "seconds after which a node that does not reply is given up", default=5.0,
    metavar="S", least=0.1, most=86400,
)  # fmt: skip
SECRET_FILE = Option(
    "secret_file", str, "the secret that nodes prove to each other", metavar="FILE",
    otherwise="DLLAMA_SECRET, if set",
)  # fmt: skip
PLAIN = Option(
    "plain", bool, "do without TLS, which encrypts what leaves this machine: others on the network "
    "can then read prompts and texts, and alter them unseen, secret or not; all nodes must be told",
    default=False,
)  # fmt: skip

# What LLM() takes besides.
KEEP_TRACE = Option("trace", bool, "keep the timeline of every pass", default=False)
PROGRESS = Option(
    "progress", bool, "show a bar while loading", default=False,
    python="a dllama.progress.Progress also tells a function",
)  # fmt: skip

# Sampling.
TEMPERATURE = Option(
    "temperature", float, "0 takes the likeliest token", default=0.8, metavar="T", least=0,
    most=2,
)  # fmt: skip
TOP_P = Option(
    "top_p", float, "sample from the likeliest tokens with this total probability", default=0.9,
    metavar="P", least=0, most=1, above=True,
)  # fmt: skip
TOP_K = Option(
    "top_k", int, "sample from the K likeliest tokens; 0 or -1: from all", default=0, metavar="K",
    least=-1, most=MAX_TOP_K,
)  # fmt: skip
MIN_P = Option(
    "min_p", float, "sample from tokens at least P times as likely as the likeliest",
    default=0.0, metavar="P", least=0, most=1,
)  # fmt: skip
REPETITION_PENALTY = Option(
    "repetition_penalty", float, "above 1, tokens of the context become less likely", default=1.0,
    metavar="R", least=0.01, most=100,
)  # fmt: skip
FREQUENCY_PENALTY = Option(
    "frequency_penalty", float, "lowers the logit of a token by P for each time that it was "
    "generated", default=0.0, metavar="P", least=-2, most=2,
)  # fmt: skip
PRESENCE_PENALTY = Option(
    "presence_penalty", float, "lowers the logits of tokens that were generated by P",
    default=0.0, metavar="P", least=-2, most=2,
)  # fmt: skip
MIN_TOKENS = Option(
    "min_tokens", int, "go on until so many tokens are generated", default=0, metavar="N", least=0,
    most=MAX_TOKENS,
)  # fmt: skip
SEED = Option(
    "seed", int, "the same seed gives the same text", metavar="N", least=0, most=MAX_SEED,
    otherwise="a new one every time",
)  # fmt: skip

# The text.
PROMPT = Option(
    "prompt", str, 'the text to continue; token ids ("1 15 9") if the model has no tokenizer',
    metavar="TEXT", short="-p", otherwise=f"{DEMO_PROMPT!r} for the demo model, else none",
)  # fmt: skip
PROMPT_FILE = Option("prompt_file", str, "a file with the text to continue", metavar="FILE")
STEPS = Option(
    "steps", int, "tokens to generate", metavar="N", least=0,
    otherwise=f"{DEFAULT_STEPS}, or what fits in the context",
)  # fmt: skip
STOP = Option(
    "stop", str, "stop before this text; may be given several times", metavar="TEXT", many=True
)
STOP_IDS = Option(
    "stop_ids", int, "stop at any of these token ids", metavar="ID", least=0, several=True
)
LOGIT_BIAS = Option(
    "logit_bias", str, "add B to the logit of the token ID; may be given several times",
    metavar="ID=B", many=True, test=parse_bias,
)  # fmt: skip
IGNORE_EOS = Option("ignore_eos", bool, "do not stop at an end-of-sequence token", default=False)
LOGPROBS = Option(
    "logprobs", int, "alternatives of a token that are told with their log-probabilities",
    least=0, most=1000,
)  # fmt: skip

PROMPT_LOGPROBS = replace(LOGPROBS, name="prompt_logprobs")

# What the text has to fit.
JSON_SCHEMA = Option(
    "json_schema", str, "a file with a JSON schema; the text is JSON that fits it", metavar="FILE"
)
REGEX = Option("regex", str, "the text matches this regular expression", metavar="REGEX")
CHOICE = Option(
    "choice", str, "the text is TEXT, or one of several if given several times", metavar="TEXT",
    many=True,
)  # fmt: skip
GRAMMAR = Option(
    "grammar", str, "a file with a grammar that the text follows, in the notation of Lark or "
    "llama.cpp (GBNF)", metavar="FILE",
)  # fmt: skip

# A conversation.
SYSTEM = Option(
    "system", str, "instructions for the model, before the first message", metavar="TEXT"
)
TEMPLATE = Option(
    "template", str, "how messages are put before the model: a file of Jinja, or plain for a text "
    "with names of speakers", metavar="FILE",
    otherwise="the model's own chat template; plain for the demo model",
)  # fmt: skip
TEMPLATE_KWARGS = Option(
    "template_kwargs", str, "variables of the template, as a JSON object such as "
    '{"enable_thinking": false}', metavar="JSON",
)  # fmt: skip

# The server.
LISTEN = Option(
    "listen", str, "HOST:PORT or [IPV6]:PORT", default="127.0.0.1:8080", metavar="ADDRESS"
)
HOST = Option(
    "host", str, "in place of --listen: the name or address to listen at", metavar="H",
    otherwise="127.0.0.1",
)  # fmt: skip
PORT = Option(
    "port", int, "in place of --listen: the port; 0 takes a free one", metavar="P", least=0,
    most=65535, otherwise="8080",
)  # fmt: skip
ALIAS = Option(
    "alias", str, "name of the model in the API", metavar="NAME",
    otherwise="that of its folder or file",
)  # fmt: skip
CORS_ORIGINS = Option(
    "cors_origins", str, "web pages of these origins, such as https://chat.example, may use the "
    "server from a browser; * for all", metavar="ORIGIN,...", commas=True,
)  # fmt: skip
API_KEY_FILE = Option(
    "api_key_file", str, "the API key that clients must send", metavar="FILE",
    otherwise="DLLAMA_API_KEY, if set",
)  # fmt: skip
INSECURE = Option(
    "insecure", bool, "allow other machines to connect without an API key", default=False
)
QUEUE = Option(
    "queue", int, "requests that may wait for their turn; more are refused", default=32,
    metavar="N", least=1, most=10000,
)  # fmt: skip
SERVED = replace(PARALLEL, help="requests that are answered at once", default=8)

MEAN, LAST = "mean", "last"
POOLING = Option(
    "pooling", str, "how a text becomes an embedding if a request does not say: by the mean of the "
    "states of all tokens, or the state of the last", choices=(MEAN, LAST),
    otherwise="what the folder of the model says, or mean",
)  # fmt: skip

# Reports.
JSON = Option("json", str, "write the results to FILE", metavar="FILE")
QUIET = Option("quiet", bool, "print nothing but the result", default=False)
TRACE = Option(
    "trace", str, "write the time of every task on every node to FILE (Chrome trace format)",
    metavar="FILE",
)  # fmt: skip
WINDOW = Option(
    "context", int, "tokens of a window", metavar="N", least=2,
    otherwise=f"{DEFAULT_WINDOW}, or the model's",
)  # fmt: skip
AGAINST = Option(
    "against", str, "another model with the same tokens, or the same one with its default "
    "--kv-cache: also print how far the first is from it",
    metavar="PATH",
)  # fmt: skip
PROMPT_TOKENS = Option(
    "prompt_tokens", int, "tokens of the prompt", metavar="N", least=1,
    otherwise=f"{DEFAULT_PROMPT_TOKENS}, or what --prompt has",
)  # fmt: skip
REPEATS = Option("repeats", int, "runs of each case, in turns", default=3, metavar="N", least=1)
CSV = Option("csv", str, "write the table to FILE as CSV", metavar="FILE")
PLOT = Option(
    "plot", str, "draw tokens/s to FILE, a PNG (needs matplotlib: pip install 'dllama[plot]')",
    metavar="FILE",
)  # fmt: skip

# What each reader of the list takes, in the order in which it shows them.
MODEL_OPTIONS = (MODEL, TOKENIZER, REQUANTISE, MAX_SEQ_LEN, KV_CACHE, THREADS)
CLUSTER_OPTIONS = (
    NODES, WORKERS, DISCOVER, TRANSPORT, BUFFER, ALL_REDUCE, SHARES, TIMEOUT, SECRET_FILE,
    PLAIN,
)  # fmt: skip
DRAFT_OPTIONS = (DRAFT, DRAFT_TOKENS)
SAMPLING_OPTIONS = (
    TEMPERATURE, TOP_P, TOP_K, MIN_P, REPETITION_PENALTY, FREQUENCY_PENALTY, PRESENCE_PENALTY,
    MIN_TOKENS, SEED,
)  # fmt: skip
TEXT_OPTIONS = (PROMPT, PROMPT_FILE, STEPS, STOP, STOP_IDS, IGNORE_EOS, LOGIT_BIAS)
GRAMMAR_OPTIONS = (JSON_SCHEMA, REGEX, CHOICE, GRAMMAR)
CHAT_OPTIONS = (
    SYSTEM,
    TEMPLATE,
    TEMPLATE_KWARGS,
    replace(PROMPT, help="the first message", otherwise=""),
    replace(PROMPT_FILE, help="a file with the first message"),
    replace(STEPS, help="most tokens of an answer", least=1, otherwise="what fits in the context"),
    replace(STOP, help="stop an answer before this text; may be given several times"),
    replace(STOP_IDS, help="stop an answer at any of these token ids"),
    IGNORE_EOS,
    LOGIT_BIAS,
)
SERVER_OPTIONS = (
    LISTEN, HOST, PORT, API_KEY_FILE, INSECURE, CORS_ORIGINS, ALIAS, QUEUE, SERVED, CONTEXTS,
    POOLING,
)  # fmt: skip
REPORT_OPTIONS = (JSON, QUIET)
WORK_OPTIONS = (PROMPT_TOKENS, REPEATS, CSV, PLOT)
LLM_OPTIONS = (
    MODEL, TOKENIZER, REQUANTISE, NODES, WORKERS, DISCOVER, TRANSPORT, THREADS, SHARES, BUFFER,
    ALL_REDUCE, TIMEOUT, SECRET_FILE, PLAIN, MAX_SEQ_LEN, CONTEXTS, PARALLEL, KV_CACHE, BATCH_SIZE,
    DRAFT, DRAFT_TOKENS, KEEP_TRACE, PROGRESS,
)  # fmt: skip
# A YAML file may hold the options of any command; each command takes its own.
FILE_OPTIONS = (
    *TEXT_OPTIONS, *GRAMMAR_OPTIONS, SYSTEM, TEMPLATE, TEMPLATE_KWARGS, *SAMPLING_OPTIONS,
    *MODEL_OPTIONS, *CLUSTER_OPTIONS, *DRAFT_OPTIONS, *SERVER_OPTIONS, *REPORT_OPTIONS, TRACE,
    WINDOW, AGAINST, *WORK_OPTIONS,
)  # fmt: skip

# `dllama bench`: what is compared, and other defaults than those of a run.
COMPARED_TRANSPORT = replace(
    TRANSPORT, help="transports", several=True, commas=True,
    otherwise="all that connect the nodes",
)  # fmt: skip
COMPARED_OPTIONS = (
    replace(
        GIVEN_NODES, help="numbers of nodes", default=None, several=True, commas=True,
        otherwise="1,2,4, or what --workers give",
    ),
    COMPARED_TRANSPORT,
    replace(BUFFER, several=True, commas=True, otherwise="the model's"),
    replace(ALL_REDUCE, default=None, several=True, commas=True),
    replace(
        PARALLEL, help="numbers of texts at once", default=None, several=True, commas=True,
        otherwise="1",
    ),
)  # fmt: skip
BENCH_STEPS = replace(STEPS, default=32, otherwise="", least=2)
BENCH_TEXT_OPTIONS = (
    replace(PROMPT, otherwise="random tokens"),
    PROMPT_FILE,
    BENCH_STEPS,
    replace(IGNORE_EOS, help="do not stop at an end-of-sequence token, as a benchmark never does"),
)
BENCH_SAMPLING_OPTIONS = (
    replace(TEMPERATURE, default=0.0),
    *(option for option in SAMPLING_OPTIONS[1:] if option is not MIN_TOKENS),
)

LOG_QUIET = replace(QUIET, help="log warnings only")

# `dllama info`: what the memory of a node depends on.
INFO_OPTIONS = (
    REQUANTISE, MAX_SEQ_LEN, KV_CACHE, THREADS, GIVEN_NODES, BUFFER, ALL_REDUCE, GIVEN_SHARES,
    CONTEXTS, PARALLEL,
)  # fmt: skip
