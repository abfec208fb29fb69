CREATE DATABASE drivers;
CREATE TABLE drivers.people (
  id BIGINT NOT NULL COMMENT 'the number', name VARCHAR(40), born DATE, seen DATETIME(6), score DECIMAL(12,3),
  weight DOUBLE, active BOOLEAN, small TINYINT, doc JSON
) UNIQUE KEY (id) COMMENT 'who is there' DISTRIBUTED BY HASH(id) BUCKETS AUTO;
INSERT INTO drivers.people VALUES
  (1, 'Ada', '1815-12-10', '2024-02-29 12:34:56.789012', 1.500, 0.25, TRUE, -7, '{"a": [1, 2]}'),
  (2, 'Grüße 🙂', NULL, NULL, NULL, NULL, FALSE, NULL, NULL),
  (9007199254740993, 'it''s "quoted" \\ here', '9999-12-31', '1970-01-01 00:00:00', -123456789.125, 12500000.5, NULL, 127, 'null');
CREATE TABLE drivers.parts (a INT NOT NULL, b VARCHAR(10) NOT NULL, v STRING) UNIQUE KEY (a, b);
