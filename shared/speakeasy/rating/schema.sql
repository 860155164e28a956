-- A study's votes. Times are UTC in ISO 8601. No addresses, no names: a rater is a place on the schedule.
CREATE TABLE meta (
  name TEXT PRIMARY KEY,
  value TEXT NOT NULL
) STRICT;

CREATE TABLE rater (
  id INTEGER PRIMARY KEY,
  place INTEGER NOT NULL UNIQUE,      -- which list of the schedule
  token_hash BLOB NOT NULL UNIQUE,    -- sha256 of the invitation's token
  label TEXT NOT NULL,                -- the organiser's note; raters never see it
  created_at TEXT NOT NULL,
  expires_at TEXT NOT NULL,
  revoked_at TEXT,
  consented_at TEXT,
  begun_at TEXT,                      -- the instructions were read
  language TEXT,
  seen_at TEXT,
  erased_at TEXT
) STRICT;

CREATE TABLE session (
  token_hash BLOB PRIMARY KEY,
  rater INTEGER NOT NULL REFERENCES rater,
  created_at TEXT NOT NULL,
  expires_at TEXT NOT NULL
) STRICT;

CREATE TABLE assignment (
  id TEXT PRIMARY KEY,                -- 128 random bits: says nothing, not even to two raters of one pair
  rater INTEGER NOT NULL REFERENCES rater,
  position INTEGER NOT NULL,
  item INTEGER NOT NULL,
  swapped INTEGER NOT NULL CHECK (swapped IN (0, 1)),
  repeats INTEGER,
  shown_at TEXT,
  UNIQUE (rater, position)
) STRICT;

CREATE TABLE vote (
  assignment TEXT PRIMARY KEY REFERENCES assignment ON DELETE CASCADE,
  choice TEXT NOT NULL CHECK (choice IN ('left', 'right', 'both_good', 'both_bad')),
  seconds REAL,
  voted_at TEXT NOT NULL
) STRICT;

CREATE TABLE rating (
  assignment TEXT NOT NULL REFERENCES assignment ON DELETE CASCADE,
  side TEXT NOT NULL CHECK (side IN ('left', 'right')),
  dimension TEXT NOT NULL,
  value INTEGER CHECK (value BETWEEN 1 AND 5),  -- NULL: cannot judge
  PRIMARY KEY (assignment, side, dimension)
) STRICT;

CREATE TABLE remark (
  assignment TEXT PRIMARY KEY REFERENCES assignment ON DELETE CASCADE,
  comment TEXT NOT NULL
) STRICT;

CREATE TABLE recording (
  id TEXT PRIMARY KEY,                -- as random as an assignment's
  rater INTEGER NOT NULL REFERENCES rater,
  dialogue TEXT NOT NULL,
  file TEXT NOT NULL UNIQUE,
  mime TEXT NOT NULL,
  bytes INTEGER NOT NULL,
  seconds REAL,
  sha256 TEXT NOT NULL,
  recorded_at TEXT NOT NULL,
  UNIQUE (rater, dialogue)
) STRICT;

CREATE TABLE refusal (
  at TEXT NOT NULL,
  kind TEXT NOT NULL,
  rater INTEGER,
  detail TEXT NOT NULL
) STRICT;
