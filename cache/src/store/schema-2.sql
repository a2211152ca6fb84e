-- What a URL held when it was last asked. url: a digest of it, since it may hold a password.
CREATE TABLE downloads (
    url BLOB PRIMARY KEY,
    digest BLOB NOT NULL,
    size_bytes INTEGER NOT NULL,
    etag TEXT,
    last_modified TEXT,
    modified INTEGER,
    file_name TEXT NOT NULL,
    asked_at INTEGER NOT NULL
) WITHOUT ROWID;

-- Layers made anew with other times. times: which, such as "at 1700000000" or "preserve" with the catalogue's digest.
CREATE TABLE retimed (
    diff_id BLOB NOT NULL,
    times TEXT NOT NULL,
    result BLOB NOT NULL,
    PRIMARY KEY (diff_id, times)
) WITHOUT ROWID;
