-- Takes the lease of an ordered cursor, where it is free or its owner is dead.
--
-- A cursor that was not given back is suspect: a record of the next `left` ones ended its owner's
-- process. `intent` names the ones that were running (ids with spaces between): a range is halved,
-- one alone is charged, one that others ran beside is not. What is stored here charges nobody before the new owner
-- says what it runs.
--
-- Where much waits, the caller reads it first, in pages, and says at which sequence: until the lease is taken nobody but
-- an administrator, or an owner that is alive after all, changes it, and each of them raises that. Nothing is written before.
--
-- Beside another cursor of a handler of several topics it is taken from whoever holds it, while that one is the caller's.
--
-- KEYS  1 stream  2 cursor's meta  3 due  4 retry  5 the `live` key of the owner that ARGV names
--       6 the partition's meta  7 the meta of the cursor that this one is beside, where ARGV has its token
-- ARGV  1 now  2 the cursor's group on the stream  3 session  4 token  5 the owner that is expected, or ''
--       6 how many records to suspect where nothing is known  7 the sequence at which the caller has read what waits, or ''
--       8 the token of the cursor that this one is beside, or ''
-- Reply {'OK', epoch, sequence, position, passed, records lost, limit ('' not suspect), left, crashes, intent,
--       '1' where it is as the caller has read it, else '', id, due, packed retry of what waits ...}
--       {'MANY', sequence} where the caller has to read what waits; {'FORGET'} state is to be forgotten first
--       {'OWNER', session} of another than expected; {'HELD'}; {'GONE'} where cursor or stream are missing
--       {'FENCED'} where the cursor that this one is beside is another's
-- Caller: acquiring.py

local FEW = 1000

local stream, meta, due, retry = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local now_ms, shift = read_clock(ARGV[1])
local session = ARGV[3]
local is_beside = ARGV[8] ~= ''
if is_beside and redis.call('HGET', KEYS[7], 'token') ~= ARGV[8] then return {'FENCED'} end

local cursor = redis.call('HMGET', meta, 'position', 'session', 'epoch', 'seq', 'clean', 'limit', 'left', 'crashes',
  'intent', 'passed', 'beside', 'forget')
local position, owner, passed = cursor[1], cursor[2] or '', cursor[10] or ''
if not position or not has_group(stream, ARGV[2]) then return {'GONE'} end
local is_taken = false
if owner ~= '' and owner ~= session then
  if owner ~= ARGV[5] then return {'OWNER', owner} end
  is_taken = is_alive(KEYS[5], now_ms, shift)
  if is_taken and not is_beside then return {'HELD'} end
end
if cursor[12] then return {'FORGET'} end

local wrong = check_keys(2, 2, 'hash', 'HSET') or check_keys(3, 3, 'zset', 'ZRANGE') or check_keys(4, 4, 'hash', 'HGET')
  or check_keys(6, 6, 'hash', 'HINCRBY')
if wrong then return wrong end
local is_read = redis.call('ZCARD', due) > FEW
if is_read and ARGV[7] ~= cursor[4] then return {'MANY', cursor[4]} end

local lost = 0
local first = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
if first and is_before(position, first[1]) then
  if passed ~= '' then
    local info = fields_of(redis.call('XINFO', 'STREAM', stream))
    lost = math.max(0, info['entries-added'] - info['length'] - passed)
    passed = text(passed + lost)
  end
  position = first[1]
end

local limit, left, crashes, intent = cursor[6] or '', cursor[7] or '', cursor[8] or '0', cursor[9] or ''
if cursor[5] == '0' and owner ~= session and not is_taken then
  if limit == '' then limit, left = ARGV[6], ARGV[6] end
  local _, running = string.gsub(intent, '%S+', '')
  if running == 1 then
    limit, left = '1', '1'
    if cursor[11] ~= '1' then crashes = text(crashes + 1) end
  elseif running > 1 then
    limit, left, crashes, intent = text(math.floor(running / 2)), text(running), '0', ''
  end
else
  crashes, intent = '0', ''
end

local epoch = text(cursor[3] + 1)
redis.call('HSET', meta, 'epoch', epoch, 'token', ARGV[4], 'session', session, 'clean', '0', 'position', position,
  'passed', passed, 'limit', limit, 'left', left, 'crashes', '0', 'intent', '')

if lost > 0 then redis.call('HINCRBY', KEYS[6], 'lost', lost) end

local reply = {'OK', epoch, cursor[4], position, passed, lost, limit, left, crashes, intent, is_read and '1' or ''}
local held = is_read and {} or redis.call('ZRANGE', due, 0, -1, 'WITHSCORES')
for at = 1, #held, 2 do
  reply[#reply + 1] = held[at]
  reply[#reply + 1] = held[at + 1]
  reply[#reply + 1] = redis.call('HGET', retry, held[at]) or '0 - -1 '
end
return reply
