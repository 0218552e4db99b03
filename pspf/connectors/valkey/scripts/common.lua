-- Stands before every script.
--
-- A script that needs the time takes `now` among its arguments: empty for the server's clock, or a
-- number of milliseconds (a clock of the caller's, for tests). Leases then expire SHIFT later by the
-- server's clock: the caller's alone decides.

local SHIFT = 3153600000000

-- Returns the time in ms, what leases are shifted by, and the id of a new entry.
local function read_clock(now)
  if now == '' then
    local time = redis.call('TIME')
    return time[1] * 1000 + math.floor(time[2] / 1000), 0, '*'
  end
  return tonumber(now), SHIFT, now .. '-*'
end

-- Numbers as Lua prints them lose digits and get exponents.
local function text(number)
  return string.format('%.0f', number)
end

-- Returns the ms that the lease behind a `live` key has left, 0 or less where it ended. Its value is the
-- whole lease in ms: more than that can't be left unless the clock stepped back, and then it begins anew.
local function ms_left(key, now_ms, shift)
  local left = redis.call('PEXPIRETIME', key) - shift - now_ms
  if left <= 0 then return left end
  local lease_ms = tonumber(redis.call('GET', key) or '')
  if not lease_ms or left <= lease_ms then return left end
  redis.call('PEXPIREAT', key, text(now_ms + lease_ms + shift))
  return lease_ms
end

-- Whether the lease behind a `live` key lasts.
local function is_alive(key, now_ms, shift)
  return ms_left(key, now_ms, shift) > 0
end

-- Compares two digit strings without turning them into numbers, which hold 53 bits.
local function less_digits(a, b)
  if #a ~= #b then return #a < #b end
  return a < b
end

-- Whether entry id a is before entry id b.
local function is_before(a, b)
  local a_high, a_low = string.match(a, '^(%d+)-(%d+)$')
  local b_high, b_low = string.match(b, '^(%d+)-(%d+)$')
  if a_high ~= b_high then return less_digits(a_high, b_high) end
  return less_digits(a_low, b_low)
end

-- The next id after an entry's.
local function after(id)
  local high, low = string.match(id, '^(%d+)-(%d+)$')
  local digits, carry = {}, 1
  for at = #low, 1, -1 do
    local digit = string.byte(low, at) - 48 + carry
    carry = digit == 10 and 1 or 0
    digits[at] = digit == 10 and '0' or string.char(48 + digit)
  end
  return high .. '-' .. (carry == 1 and '1' or '') .. table.concat(digits)
end

local PARTS = {'key', 'headers', 'ts'}

-- Appends one packed record (fields.pack_records) of a shape, whose parts are in ARGV from index `at` on.
-- Returns its id and the index behind its parts.
local function append_record(stream, stamp, shape, at)
  if shape == 0 then
    return redis.call('XADD', stream, stamp, 'data', ARGV[at]), at + 1
  end
  if shape == 1 then
    return redis.call('XADD', stream, stamp, 'data', ARGV[at], 'key', ARGV[at + 1]), at + 2
  end
  local fields = {'data', ARGV[at]}
  at = at + 1
  for bit, name in ipairs(PARTS) do
    if math.floor(shape / 2 ^ (bit - 1)) % 2 == 1 then
      fields[#fields + 1] = name
      fields[#fields + 1] = ARGV[at]
      at = at + 1
    end
  end
  return redis.call('XADD', stream, stamp, unpack(fields)), at
end

-- The index behind a packed record's parts.
local function skip_record(shape, at)
  return at + 1 + shape % 2 + math.floor(shape / 2) % 2 + math.floor(shape / 4)
end

-- Appends packed records: `shapes`, and their parts in ARGV from index `at` on. All get one
-- millisecond and follow each other, so that the first id says all.
-- Returns the first id (false without records) and the index behind the last part.
local function append_records(stream, stamp, shapes, at)
  local first, id = false, false
  local call, count = redis.call, #shapes
  for number = 1, count do
    id, at = append_record(stream, stamp, string.byte(shapes, number) - 48, at)
    if count == 1 then return id, at end
    if not first then
      first = id
      stamp = string.match(id, '^%d+') .. '-*'
      if not string.find(shapes, '[^0]') then -- the commonest shape, at its full speed
        for part = at, at + count - 2 do call('XADD', stream, stamp, 'data', ARGV[part]) end
        return first, at + count - 1
      end
    end
  end
  return first, at
end

-- A list of names and values as a table.
local function fields_of(list)
  local found = {}
  for at = 1, #list, 2 do found[list[at]] = list[at + 1] end
  return found
end
