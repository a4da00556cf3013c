"""How much of anything is accepted, in one place. Inclusive bounds; the unit is in the name.

Bounds of JSON itself (depth, digits, items) are in `settlement.strict_json`; what the contracts
bound (uint32 and so on) is in `settlement.units`.
"""

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

# Files: a job's folder, its outputs, and the blobs that they travel as.
BLOB_BYTES_MAX = 64 * MIB  # of one blob, and so of a packed folder
BLOB_BYTES_PER_DAY_MAX = 16 * GIB  # that one account uploads in 24 hours
ARCHIVE_CONTENT_BYTES_MAX = 4 * GIB  # before packing: bounds the time that it takes, too
ARCHIVE_ENTRIES_MAX = 100_000  # files, and folders whether they have an entry or not
ARCHIVE_NAME_BYTES_MAX = KIB  # of one path
ARCHIVE_NAMES_BYTES_MAX = 16 * MIB  # of all paths together
ARCHIVE_STEP_BYTES_MAX = 255  # of one step of a path
ARCHIVE_DEPTH_MAX = 64  # steps of a path
ARCHIVE_HEADER_BYTES_MAX = 16 * KIB  # of a header that extends another
FOLDER_DEPTH_MAX = 128  # folders inside each other that a job may make
PATH_CHARS_MAX = 4096  # of a path in a configuration file

# Output of a job, and what it says on its socket.
LOG_BYTES_MAX = 16 * MIB  # kept of one stream; what comes after is dropped, and the log says so
LOG_CHUNK_BYTES = 32 * KIB  # that the agent sends at once
LOG_TEXT_CHARS_MAX = 256 * KIB  # that the server takes at once
SOCKET_CONNECTIONS_MAX = 16  # open at the same time
SOCKET_LINE_BYTES_MAX = 4 * KIB
SOCKET_LINES_PER_SECOND_MAX = 200  # more are read later, never lost
PROGRESS_CHARS_MAX = 200  # of a progress text
UNITS_PER_LINE_MAX = 1_000_000  # larger counts in one line are ignored

# A node as its provider lists it.
NODE_NUMBER_MAX = 2**24 - 1
NODE_GPUS_MAX = 64
NODE_NAME_CHARS_MAX = 64
GPU_UUID_CHARS_MAX = 96
REGION_CHARS_MAX = 32
TIER_CHARS_MAX = 32
INTERVAL_MS_MIN, INTERVAL_MS_MAX = 100, 600_000  # between two attestations
WITNESSED_INTERVAL_MS_MAX = 60_000  # that a witness goes by, whatever interval a market states

# What an agent's configuration may say.
POLL_MS_MIN, POLL_MS_MAX = 100, 60_000  # between two questions to the server
STOP_GRACE_MS_MAX = 600_000  # that a stopped job gets to end by itself
JOB_PIDS_MIN, JOB_PIDS_MAX = 8, 1_000_000  # processes of one job

# A job file.
JOB_SECONDS_MAX = 90 * 86_400  # of any duration in it
JOB_NAME_CHARS_MAX = 64
JOB_WORD_CHARS_MAX = 32 * KIB  # of one word of a command
JOB_WORDS_MAX = 256  # of a command
JOB_PAIRS_MAX = 128  # variables of its environment; tags
JOB_ENV_CHARS_MAX = 32 * KIB  # of a variable's value
JOB_TAG_CHARS_MAX = 256  # of a tag's value
JOB_CPU_MILLI_MAX = 1_024_000  # thousandths of a core
JOB_GPU_MILLI_MAX = 64_000  # thousandths of a GPU: 64 whole ones, on one node
JOB_REGIONS_MAX = 32
JOB_PATH_CHARS_MAX = KIB  # of its folder
JOB_IMAGE_CHARS_MAX = 255
JOB_OUTPUTS_MAX = 16
JOB_OUTPUT_CHARS_MAX = 255  # of a path under /out
UNIT_CHARS_MAX = 32  # of the name of a counted unit

# Accounts and orders.
TIME_SECONDS_MAX = 253_402_300_799  # Unix time: the end of the year 9999
API_KEYS_MAX = 100  # of one account
LIVE_JOBS_MAX = 2_000  # of one account: each submission adds up what they may lock
EARLY_STOPS_MAX = 20  # of one account in an hour; then its bids wait, unless the operator says more
SALT_MAX = 2**40  # that a client signs: a larger one would use up those of orders to come
SALT_AHEAD_MAX = 2**20  # beyond the next salt; words on chain are shared by 128 dense salts
STORED_SALT_MAX = 2**62  # that the market takes over from the chain; a column holds 63 bits
ORDER_SECONDS_MAX = 400 * 86_400  # until an ask or a bid expires
KEY_REQUEST_SECONDS_MAX = 600  # that a signed request for an API key is good for
NODE_ASKS_MAX = 64  # of one node, open or suspended: every search of the book looks at them

# Requests, and what a client takes of an answer.
ANSWER_BYTES_MAX = 64 * MIB  # of any answer: as much as the largest blob
EVENT_BYTES_MAX = MIB  # of one event of a stream
BODY_BYTES_MAX = MIB  # of any request but a blob's
BODY_ITEMS_MAX = 4_096  # members and items of any request, at every depth together
PROBLEMS_MAX = 50  # mistakes that one refusal lists
PAGE_ITEMS_MAX = 100
IDEMPOTENCY_KEY_CHARS_MAX = 128
NUMBER_DIGITS_MAX = 18  # of a number written as text: it fits 63 bits
ANSWER_SECONDS_MAX = 600  # until the last byte of an answer
STREAM_RETRY_MS_MAX = 60_000  # that a stream may ask its readers to wait
PENDING_LEASES_MAX = 1_000  # that a witness is told of at once
LOG_OFFSET_MAX = 2**53 - 1  # what every JSON reader holds exactly
HEARTBEATS_MAX = 2**53 - 1  # of one job
STOP_SECONDS = 600  # that a signed Stop is good for: a held-back one cannot end a lease much later
STOP_SECONDS_MAX = STOP_SECONDS + 60  # that the server takes: clocks differ
RELAY_SECONDS = 600  # that a signed withdrawal or top-up is good for
RELAY_SECONDS_MIN = 60  # that the server takes: it must be mined in time
RELAY_SECONDS_MAX = RELAY_SECONDS + 60  # that the server takes: clocks differ
RELAY_TRIES = 4  # how often a number of an account is taken whose calls failed
RELAY_PAUSE_SECONDS = 3_600  # without relayed calls after one that failed and had to be paid for
REASON_CHARS_MAX = 2_000  # of a reason that an agent gives for a job's end
REASON_CHARS_KEPT = 500  # of which the server keeps so many
