-- Finishes records that a session has in hand, with all that they did: all of it or none of it.
--
-- The gate is each record's own: it is pending on this session. Every script that takes records out
-- of a session's pending entries raises `takes`; while that is what the caller knew when its records
-- were delivered, they can only be its own, and XACK answers for each. Otherwise, where they stand
-- together, and where something is appended, the pending entries are read first. A replayed record, of which the stream
-- has no entry, is lent to a session instead of pending on it; it is never a plain one.
--
-- KEYS  1 stream  2 cursor's meta  3 due  4 retry  5 suspects  6 lent, then the keys of the effects (effects.lua)
-- ARGV  1 now  2 group  3 session  4 commit id  5 takes, or '' to read the pending entries
--       6 '1' where the records stand together (with takes '')  7 number of streams of effects
--       8 number of plain records: done, and nothing else to do  9 number of other records
--       10 first and 11 last id of them all
--       then the plain ids; then of each other record: id, due ('' where it is done), packed retry;
--       then the effects (effects.lua), whose sources are the other records, counted from 1
-- Reply {takes, number of plain ids that counted, ids that did not ('' for plain ones that XACK does not tell)}
--       or {'GONE'} where there is no such group any more
--       or {'MOVED', numbers of the streams of effects whose topic has other partitions or is not there}
-- Caller: shared.py

local stream, meta, due, retry, suspects, lent = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local group, session, commit_id = ARGV[2], ARGV[3], ARGV[4]
local streams, plain, others = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local first_plain, first_other = 12, 12 + plain
local effects = first_other + 3 * others

local known = redis.call('HMGET', meta, 'start', 'takes', 'c:' .. session, 'l:' .. session)
if not known[1] then return {'GONE'} end
local takes = known[2] or '0'

-- Sent again: it has taken effect.
if known[3] == commit_id then
  local lost = {}
  for id in string.gmatch(known[4] or '', '%S+') do lost[#lost + 1] = id end
  return {takes, plain, lost}
end

local moved = find_moved(6, streams, effects)
if moved then return moved end

-- The gate, where XACK alone is no proof, or comes too late.
local is_doubtful = ARGV[5] == '' or ARGV[5] ~= takes
local is_exact = is_doubtful or streams > 0
local mine = {}
if is_exact and not has_group(stream, group) then return {'GONE'} end
if is_exact then
  local from, page = ARGV[10], 1000
  while true do
    local rows = redis.call('XPENDING', stream, group, from, ARGV[11], page, session)
    for number = 1, #rows do mine[rows[number][1]] = true end
    if #rows < page then break end
    from = '(' .. rows[page][1]
  end
end

local wrong = check_keys(1, 1, 'stream', 'XACK') or check_keys(2, 2, 'hash', 'HSET', 'HINCRBY')
  or check_keys(3, 3, 'zset', 'ZADD') or check_keys(4, 6, 'hash', 'HEXISTS', 'HGET', 'HSET', 'HDEL')
  or check_keys(7, 6 + streams, 'stream', 'XADD', 'XDEL')
if wrong then return wrong end

local function is_lent(id)
  return redis.call('HGET', lent, id) == session
end

local lost_ids, lost = {}, {}
if is_doubtful then
  for at = first_plain, first_other - 1 do
    if not mine[ARGV[at]] then lost_ids[#lost_ids + 1] = ARGV[at] end
  end
end
if is_exact then
  for number = 1, others do
    local id = ARGV[first_other + 3 * (number - 1)]
    if not mine[id] and not is_lent(id) then
      lost_ids[#lost_ids + 1] = id
      lost[number] = true
    end
  end
end
local is_refused = ARGV[6] == '1' and #lost_ids > 0

local now_ms, _, stamp = read_clock(ARGV[1])
-- The first write is one that the server refuses when out of memory, with effects and without.
local failed = not is_refused and append_effects(6, streams, effects, stamp, lost)
if failed then return failed end
redis.call('HSET', meta, 'c:' .. session, commit_id, 'l:' .. session, '', 'last_commit_ms', text(now_ms))

-- They stand together, and some are not ours: all of ours are given back.
if is_refused then
  lost_ids = {}
  local function give_back(id)
    lost_ids[#lost_ids + 1] = id
    local was_lent = is_lent(id)
    if mine[id] or was_lent then
      redis.call('XACK', stream, group, id)
      if was_lent then redis.call('HDEL', lent, id) end
      redis.call('ZADD', due, redis.call('HEXISTS', suspects, id) == 1 and -2 or -1, id)
    end
  end
  for at = first_plain, first_other - 1 do give_back(ARGV[at]) end
  for number = 1, others do give_back(ARGV[first_other + 3 * (number - 1)]) end
  redis.call('HINCRBY', meta, 'takes', 1)
  redis.call('HSET', meta, 'l:' .. session, table.concat(lost_ids, ' '))
  return {redis.call('HGET', meta, 'takes'), 0, lost_ids}
end

local counted = 0
if is_doubtful then
  for at = first_plain, first_other - 1 do
    local id = ARGV[at]
    if mine[id] then
      counted = counted + redis.call('XACK', stream, group, id)
      redis.call('HDEL', retry, id)
      redis.call('HDEL', suspects, id)
    end
  end
else
  for from = first_plain, first_other - 1, 4000 do
    counted = counted + redis.call('XACK', stream, group, unpack(ARGV, from, math.min(from + 3999, first_other - 1)))
  end
end

for number = 1, others do
  local at = first_other + 3 * (number - 1)
  local id, due_ms = ARGV[at], ARGV[at + 1]
  if not lost[number] then
    if redis.call('XACK', stream, group, id) == 0 and not (is_lent(id) and redis.call('HDEL', lent, id) == 1) then
      lost[number] = true
      lost_ids[#lost_ids + 1] = id
    else
      redis.call('HDEL', suspects, id)
      if due_ms == '' then
        redis.call('HDEL', retry, id, '+' .. id)
      else
        redis.call('HSET', retry, id, ARGV[at + 2])
        redis.call('ZADD', due, due_ms, id)
      end
    end
  end
end
if #lost_ids > 0 then redis.call('HSET', meta, 'l:' .. session, table.concat(lost_ids, ' ')) end

return {takes, counted, lost_ids}
