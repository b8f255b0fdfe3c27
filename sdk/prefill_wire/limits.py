"""Every limit of the protocol, in one place; each is checked before anything is allocated."""

WIRE_VERSION = 1
SUPPORTED_WIRE_VERSIONS = (1,)

MAX_PROMPT_TOKENS = 1 << 20  # the longest context of a released hybrid model
MAX_PROMPT_PART_BYTES = 1 << 20
BLOCK_SIZE_TOKENS = 512

MAX_CHUNK_BYTES = 4 << 20  # raw bytes of one chunk: the size at which loopback TCP peaks
MAX_PAYLOAD_BYTES = MAX_CHUNK_BYTES + (1 << 16)  # a codec may add a little to what cannot shrink
MAX_LEAF_TABLE_BYTES = 128 << 20
MAX_CHUNKS = 1 << 20
SEAL_OVERHEAD_BYTES = 16  # the tag of AES-256-GCM

MAX_MANIFEST_BYTES = 256 << 10
MAX_TENSORS = 512
MAX_DIMENSIONS = 8
MAX_ERROR_BOUND = 1e31  # codecs refuse elements above 1e30
MAX_TEXT_BYTES = 256
MAX_RECEIPT_BYTES = 16 << 10
MAX_CERTIFICATE_BYTES = 4 << 10
MAX_CAPABILITY_BYTES = 1 << 10

MAX_CONNECTIONS = 8
MAX_CONTROL_FRAME_BYTES = 4 << 10
MAX_FRAME_BYTES = MAX_LEAF_TABLE_BYTES + (1 << 10)
MAX_PULL_CHUNKS = 1 << 16

GRPC_MAX_MESSAGE_BYTES = 2 << 20  # a million tokens' block hashes are 64 KiB, a prompt part 1 MiB
