-- Incidents end; open incidents and emergencies are found by the square of the earth in which they are.

-- Whoever raises incidents or emergencies. The row is what a transaction locks before it changes which of a
-- user's incidents are open, and it carries the user's rate of raising.
CREATE TABLE raisers (
    app TEXT NOT NULL,
    user_id TEXT NOT NULL,
    -- When everything that was raised so far is paid for, in milliseconds since the epoch.
    paid_at BIGINT NOT NULL,
    PRIMARY KEY (app, user_id)
);

ALTER TABLE sos_incidents ADD COLUMN ended_at BIGINT;
ALTER TABLE sos_incidents ADD COLUMN ended_by TEXT;
ALTER TABLE sos_incidents ADD COLUMN end_reason TEXT;
-- 1: the user took part until the incident ended.
ALTER TABLE sos_participants ADD COLUMN by_end BIGINT NOT NULL DEFAULT 0;

-- The smallest square around the place; NULL until a node has computed it, and where there is no place.
ALTER TABLE sos_incidents ADD COLUMN cell BIGINT;
-- 1: the user has as many open ones already as are listed before those of others.
ALTER TABLE sos_incidents ADD COLUMN is_extra BIGINT NOT NULL DEFAULT 0;
-- 1: the user has another open one.
ALTER TABLE sos_incidents ADD COLUMN has_siblings BIGINT NOT NULL DEFAULT 0;

ALTER TABLE emergencies ADD COLUMN cell BIGINT;
ALTER TABLE emergencies ADD COLUMN is_extra BIGINT NOT NULL DEFAULT 0;
ALTER TABLE emergencies ADD COLUMN has_siblings BIGINT NOT NULL DEFAULT 0;

-- Incidents that everybody had left before incidents ended.
UPDATE sos_incidents SET status = 'ENDED', end_reason = 'left',
    ended_at = COALESCE((SELECT MAX(left_at) FROM sos_participants WHERE sos_id = sos_incidents.id), created_at)
    WHERE id NOT IN (SELECT sos_id FROM sos_participants WHERE status = 'ACTIVE');

UPDATE sos_incidents SET has_siblings = 1 WHERE ended_at IS NULL AND user_id IN
    (SELECT user_id FROM sos_incidents WHERE ended_at IS NULL GROUP BY user_id HAVING COUNT(*) > 1);
UPDATE sos_incidents SET is_extra = 1 WHERE id IN (SELECT id FROM
    (SELECT id, ROW_NUMBER() OVER (PARTITION BY user_id ORDER BY id) AS place FROM sos_incidents
    WHERE ended_at IS NULL) AS placed WHERE place > 10);
UPDATE emergencies SET has_siblings = 1 WHERE ended_at IS NULL AND user_id IN
    (SELECT user_id FROM emergencies WHERE ended_at IS NULL GROUP BY user_id HAVING COUNT(*) > 1);
UPDATE emergencies SET is_extra = 1 WHERE id IN (SELECT id FROM
    (SELECT id, ROW_NUMBER() OVER (PARTITION BY user_id ORDER BY id) AS place FROM emergencies
    WHERE ended_at IS NULL) AS placed WHERE place > 10);

DROP INDEX sos_incidents_nearby;
CREATE INDEX sos_incidents_leading ON sos_incidents (cell, id, user_id, has_siblings)
    WHERE ended_at IS NULL AND is_extra = 0;
CREATE INDEX sos_incidents_several ON sos_incidents (cell, id, user_id, is_extra)
    WHERE ended_at IS NULL AND has_siblings = 1;
CREATE INDEX sos_incidents_open_of_user ON sos_incidents (user_id, is_extra, id) WHERE ended_at IS NULL;
CREATE INDEX sos_incidents_open_since ON sos_incidents (created_at, id) WHERE ended_at IS NULL;
CREATE INDEX sos_incidents_without_cell ON sos_incidents (id)
    WHERE ended_at IS NULL AND cell IS NULL AND latitude IS NOT NULL;

DROP INDEX emergencies_nearby;
CREATE INDEX emergencies_leading ON emergencies (cell, id, user_id, has_siblings)
    WHERE ended_at IS NULL AND is_extra = 0;
CREATE INDEX emergencies_several ON emergencies (cell, id, user_id, is_extra)
    WHERE ended_at IS NULL AND has_siblings = 1;
CREATE INDEX emergencies_open_of_user ON emergencies (user_id, is_extra, id) WHERE ended_at IS NULL;
CREATE INDEX emergencies_without_cell ON emergencies (id)
    WHERE ended_at IS NULL AND cell IS NULL AND latitude IS NOT NULL;
