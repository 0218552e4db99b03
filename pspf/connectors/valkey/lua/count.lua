-- Counts records from an id on, a bounded step.
--
-- KEYS  1 stream
-- ARGV  1 start of the range, as XRANGE takes it
-- Reply {number, start of the rest or empty}
-- Caller: inspect.py

local count, rest = count_from(KEYS[1], ARGV[1], 2000)
return {count, rest or ''}
