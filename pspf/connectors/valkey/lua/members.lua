-- Who consumes a partition, and how long each of them lives yet: a bounded step.
--
-- KEYS  1 sessions, then the live keys of sessions that the caller knows, 1,000 at most
-- ARGV  1 now  2 where the next page of `sessions` begins, '' where none is asked for
-- Reply {ms that each of these has left (0 or less: dead), where the page after it begins ('': nowhere),
--       the page of `sessions`}
-- Caller: members.py

local PAGE = 1000

local now_ms, shift = read_clock(ARGV[1])
local left = {}
for number = 2, #KEYS do
  left[number - 1] = ms_left(KEYS[number], now_ms, shift)
end
if ARGV[2] == '' then return {left, '', {}} end
local page = redis.call('HSCAN', KEYS[1], ARGV[2], 'COUNT', PAGE)
return {left, page[1] == '0' and '' or page[1], page[2]}
