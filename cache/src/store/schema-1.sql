-- Digests are 32 raw bytes; times are nanoseconds since 1970; manifests are descriptors in JSON.

-- What is known of a blob's file. boot: in which boot of the machine it was written or last checked; NULL where a later
-- boot read it back whole, so that no power cut can take it any more.
CREATE TABLE blobs (
    digest BLOB PRIMARY KEY,
    size_bytes INTEGER NOT NULL,
    boot BLOB
) WITHOUT ROWID;

-- Results of steps. step: what "the same step" means to explanations; why: the parts of the key, in JSON.
CREATE TABLE records (
    key BLOB PRIMARY KEY,
    step TEXT NOT NULL,
    layer BLOB,
    catalogue BLOB,
    finished INTEGER NOT NULL,
    last_used INTEGER NOT NULL,
    why TEXT NOT NULL
);
CREATE INDEX records_by_step ON records (step, finished);

-- Layers by diffID, and the blobs they are in.
CREATE TABLE layers (
    diff_id BLOB PRIMARY KEY,
    size_bytes INTEGER NOT NULL,
    catalogue BLOB
) WITHOUT ROWID;
CREATE TABLE layer_blobs (
    diff_id BLOB NOT NULL,
    codec TEXT NOT NULL,
    digest BLOB NOT NULL,
    descriptor TEXT NOT NULL,
    PRIMARY KEY (diff_id, codec, digest)
) WITHOUT ROWID;
CREATE INDEX layer_blobs_by_digest ON layer_blobs (digest);

-- In which repositories a blob is known to be.
CREATE TABLE origins (
    digest BLOB NOT NULL,
    repository TEXT NOT NULL,
    PRIMARY KEY (digest, repository)
) WITHOUT ROWID;

-- Names of images here, and what names meant in registries.
CREATE TABLE images (
    name TEXT PRIMARY KEY,
    manifest TEXT NOT NULL,
    resolved_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE resolutions (
    reference TEXT NOT NULL,
    platform TEXT NOT NULL,
    manifest TEXT NOT NULL,
    resolved_at INTEGER NOT NULL,
    PRIMARY KEY (reference, platform)
) WITHOUT ROWID;
