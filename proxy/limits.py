"""Every bound of the program, each with its reason. Sizes are bytes, times seconds, unless the name says otherwise."""

from __future__ import annotations

from typing import Final

# A rule or settings file larger than this is not written by hand.
YAML_MAX_BYTES: Final = 1_000_000
# Values in one of them: lists and mappings take more memory than their text does.
YAML_MAX_VALUES: Final = 50_000
# Deeper than any mapping that a person can follow; keeps recursive readers far from the interpreter's limit.
YAML_MAX_DEPTH: Final = 40
# Files in one rule pack; a pack is a folder that a person edits.
PACK_MAX_FILES: Final = 200
# Files and folders of any kind in one rule pack, and how deep; a folder with more is not one that a person edits.
PACK_MAX_ENTRIES: Final = 5_000
PACK_MAX_DEPTH: Final = 5
# All rule files together, those of a pack as often as another one extends it. The ones that come with the program have
# a quarter of a million.
RULES_MAX_BYTES: Final = 2_000_000
# Packs that extend each other in a row; nobody can follow more.
EXTENDS_MAX: Final = 5

# A request body: a 128k-token conversation is under 1 MB of text; images as data URLs need the rest.
REQUEST_MAX_BYTES: Final = 32 * 1024 * 1024
# Commas and opening brackets in a body, which bound how many values it holds. Each value costs about a microsecond, in
# which nothing else is served. A prompt of two million characters has some 50,000 commas, a batch of 10,000 texts not
# many more.
REQUEST_MAX_VALUES: Final = 200_000
# A caller that takes longer than this to send a body of that size is stuck or means harm.
REQUEST_BODY_SECONDS: Final = 60.0
# A question to a worker on the way to a request, such as a count of tokens; the request goes on without the answer.
QUESTION_SECONDS: Final = 10.0
# One frame of an answer: a cumulative chunk holds the whole text so far; an embeddings body of 64 vectors of 4,096
# floats is 6 MB.
FRAME_MAX_BYTES: Final = 16 * 1024 * 1024
# An answer that is not a stream but is collected in memory before it is rewritten.
ANSWER_MAX_BYTES: Final = 64 * 1024 * 1024
# All answers together of which a client's one is made, such as the vectors of a batch that is asked for in parts. What
# they are turned into takes half as much again: 10,000 vectors of 1,024 floats are 200 MB, and 330 MB as objects.
ANSWERS_MAX_BYTES: Final = 256 * 1024 * 1024

# Bytes that may wait in the socket towards a client before reading from its worker stops; resumes when little is left.
CLIENT_BUFFER_BYTES: Final = 256 * 1024
# A client that has taken nothing of what waits for it for so long is gone, whatever its connection looks like.
CLIENT_STALL_SECONDS: Final = 300.0
# Bytes of the bodies of all requests under way, waiting ones too. What a body is turned into is up to four times as
# large, because a character beyond the basic plane makes each of its text take four bytes.
BODIES_MAX_BYTES: Final = 512 * 1024 * 1024
# Requests under way at once, waiting ones too: each holds its body and its prompt, some 100 kB, now and then megabytes.
REQUESTS_MAX: Final = 4_096

# A key for a worker stands in a header: a JSON web token has some thousand characters, servers take 8 kB of headers.
KEY_MAX: Final = 4_096
# Copies of requests under way at once, whose answers are thrown away; each holds its request, and what of its answer
# must be held to read it.
MIRRORS_MAX: Final = 16
# Bytes of such an answer, or of a stream that is held as a whole to be read: some 100,000 tokens.
MIRROR_ANSWER_BYTES: Final = 32 * 1024 * 1024
# One that is not over by then is slow; more need not be known.
MIRROR_SECONDS: Final = 600.0
# Answers that one request may ask for (`call.each`): as many choices as clients' dialects allow. Each is a request to a
# worker.
ELEMENTS_MAX: Final = 128
# Of those that make one whole answer, so many are under way at once: one request is not to fill a worker's every place.
ELEMENTS_AT_ONCE: Final = 4

# Text of an error that goes to a caller or into a log line; a worker may answer with a whole HTML page.
ERROR_TEXT_MAX: Final = 2_000
# A model's name; longer ones come only from mistakes and attacks, and names become labels.
MODEL_NAME_MAX: Final = 256

# Pending connections: one burst of an API server that opens a connection for each request.
LISTEN_BACKLOG: Final = 2_048
# An idle client connection is kept this long.
KEEPALIVE_SECONDS: Final = 75.0
# One frame between two processes of a gateway: all that is known of a fleet, whose largest has some 16,000 models with
# their templates.
CHANNEL_FRAME_MAX_BYTES: Final = 128 * 1024 * 1024
# What may wait for a process that does not read; one that is so far behind is stuck.
CHANNEL_WAITING_BYTES: Final = 256 * 1024 * 1024
# Serving processes for each CPU: more only wait for each other.
PROCESSES_PER_CPU_MAX: Final = 4
# Replacements of a process that ended by itself, in a row: what ends so often ends always. One that lived as long as
# this (seconds) ends the row.
REPLACEMENTS_MAX: Final = 3
LIVED_SECONDS: Final = 30.0
# How long requests wait for control, or for a new one, before they are refused.
CONTROL_AWAY_SECONDS: Final = 10.0
# Whoever waits for control is looked at once in so long; a copy of a request waits no longer, as it may cost nobody
# anything.
CONTROL_LOOK_SECONDS: Final = 1.0
# Connections to control that are lost in a row, none of which lasted as long as LIVED_SECONDS. Control itself is
# replaced only so often that it can lose no more: the fault is the serving process's, and a new one has it not.
CONTROL_LOSSES_MAX: Final = 5
# A process that has said nothing for so long, while the supervisor ran, does not run: each says something once a
# second, and nothing that its event loop does takes a tenth of this.
SILENT_SECONDS: Final = 10
# How long the streams of a process that was replaced may go on: as long as a request may take, unless the settings say
# otherwise (`timeouts.total_seconds`).
LEAVING_SECONDS: Final = 3_600.0
# How long a process that was told to end at once may take.
END_SECONDS: Final = 2.0
# How long the start waits for the fleet's answers; a worker that is busy with an embedding may take half a minute.
FIRST_LOOK_SECONDS: Final = 10.0
# How long streams may go on after the gateway was asked to stop.
SHUTDOWN_SECONDS: Final = 20.0
# Ports that may be opened for one model each.
MODEL_PORTS_MAX: Final = 256
# More workers than one gateway's share of a cluster, and more models than fit on one machine.
FLEET_WORKERS_MAX: Final = 256
FLEET_MODELS_PER_WORKER_MAX: Final = 64
# Keys of clients: each request's is compared with all of them, 0.3 microseconds each.
API_KEYS_MAX: Final = 256
# Requests that may wait for one model; each holds its body in memory.
QUEUE_LENGTH_MAX: Final = 10_000
# Label values of one kind before the rest is counted as "other".
LABEL_VALUES_MAX: Final = 500
# Backends; each is a folder of rules.
BACKENDS_MAX: Final = 20
# Fields that one rule drops and that are counted by name; the rest is counted as "other". A caller can invent names.
DROPPED_FIELDS_MAX: Final = 50
# Characters of such a name; a longer one is no field of any dialect.
FIELD_NAME_MAX: Final = 64
# Elements of an array, such as the messages of a chat, of which the fields are looked at.
FIELD_ELEMENTS_MAX: Final = 1_000

# A recording: its seconds, requests and bytes at most. An hour shows a daily pattern, and the file still fits a mail.
RECORDING_SECONDS_MAX: Final = 3_600.0
RECORDING_REQUESTS_MAX: Final = 10_000
RECORDING_MAX_BYTES: Final = 256 * 1024 * 1024
# One request of it, with all that was said; a longer one is left out and counted.
RECORDED_REQUEST_MAX_BYTES: Final = 16 * 1024 * 1024
# A line of a recording that is read: such a request as JSON, in which a byte can take six.
RECORDING_LINE_MAX_BYTES: Final = 128 * 1024 * 1024
# What the recorded requests under way hold together of what workers said and clients were told; the rest is left out.
RECORDING_UNDER_WAY_BYTES: Final = 256 * 1024 * 1024
# What may wait for being written; a disk that is slower than that loses requests of the recording, never of clients.
RECORDING_WAITING_BYTES: Final = 64 * 1024 * 1024
