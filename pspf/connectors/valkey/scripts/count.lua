-- Counts records from an id on, a bounded step.
--
-- KEYS  1 stream
-- ARGV  1 start of the range, as XRANGE takes it
-- Reply {number, start of the rest or empty}
-- Caller: inspect.py

local STEP, MOST = 500, 5000

local count, from = 0, ARGV[1]
while count < MOST do
  local entries = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', STEP)
  count = count + #entries
  if #entries < STEP then return {count, ''} end
  from = '(' .. entries[#entries][1]
end
return {count, from}
