-- Removes the entries of sessions whose lease has ended, a page at a time: processes that were killed leave them.
--
-- KEYS  1 sessions, then the live keys of the sessions in ARGV
-- ARGV  1 now  2 where the next page begins, '' where there is none, then sessions that the last page named
-- Reply {where the page after it begins ('': nowhere), the sessions of the page}
-- Caller: members.py

local PAGE = 1000

local wrong = check_keys(1, 1, 'hash', 'HDEL')
if wrong then return wrong end

local now_ms, shift = read_clock(ARGV[1])
for number = 3, #ARGV do
  if not is_alive(KEYS[number - 1], now_ms, shift) then redis.call('HDEL', KEYS[1], ARGV[number]) end
end
if ARGV[2] == '' then return {'', {}} end
local page = redis.call('HSCAN', KEYS[1], ARGV[2], 'COUNT', PAGE)
local sessions = {}
for at = 1, #page[2], 2 do sessions[#sessions + 1] = page[2][at] end
return {page[1] == '0' and '' or page[1], sessions}
