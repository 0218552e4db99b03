-- Gives back what is pending on a session that does not know of it: the reply of its read was lost.
-- A bounded step.
--
-- KEYS  1 stream  2 cursor's meta  3 due  4 suspects  5 lent
-- ARGV  1 group  2 session, then the ids that it knows to have in hand
-- Reply {number of records given back, '1' to call again}
-- Caller: shared.py

local STEP = 1000

local stream, meta, due, suspects, lent = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local group, session = ARGV[1], ARGV[2]
local wrong = check_keys(1, 1, 'stream', 'XACK', 'XPENDING') or check_keys(2, 2, 'hash', 'HINCRBY')
  or check_keys(3, 3, 'zset', 'ZADD') or check_keys(4, 5, 'hash', 'HEXISTS', 'HDEL')
if wrong then return wrong end

local known = {}
for at = 3, #ARGV do known[ARGV[at]] = true end
local given, from = 0, '-'
local is_raised = false
local borrowed = redis.call('HGETALL', lent)
for at = 1, #borrowed, 2 do
  local id = borrowed[at]
  if borrowed[at + 1] == session and not known[id] then
    redis.call('ZADD', due, redis.call('HEXISTS', suspects, id) == 1 and -2 or -1, id)
    redis.call('HDEL', lent, id)
    given = given + 1
  end
end
while given < STEP do
  local rows = redis.call('XPENDING', stream, group, from, '+', STEP, session)
  for number = 1, #rows do
    local id = rows[number][1]
    if not known[id] then
      -- Raised first: see commit_shared.lua.
      if not is_raised then redis.call('HINCRBY', meta, 'takes', 1) end
      is_raised = true
      redis.call('ZADD', due, redis.call('HEXISTS', suspects, id) == 1 and -2 or -1, id)
      redis.call('XACK', stream, group, id)
      given = given + 1
    end
  end
  if #rows < STEP then return {given, '0'} end
  from = '(' .. rows[STEP][1]
end
return {given, '1'}
