-- What a commit appends: emitted records and dead letters. Stands before commit_shared and commit_ordered.
--
-- In ARGV, from some index on, for each of the `count` streams in KEYS behind `base`: its shapes
-- (fields.pack_records), and which record of the commit each one comes from, as numbers with spaces
-- between (empty where none is conditional; 0 for a record that always counts); then, stream after
-- stream, the parts of the records.

-- Returns an error where one of the keys holds another kind of value: asked before the first write.
local function check_kinds(first, last, wanted)
  for number = first, last do
    local kind = redis.call('TYPE', KEYS[number])['ok']
    if kind ~= wanted and kind ~= 'none' then
      return redis.error_reply('WRONGTYPE ' .. KEYS[number] .. ' is a ' .. kind .. ' and no ' .. wanted)
    end
  end
end

-- Appends to the streams what comes from records that are not `lost` (a set of their numbers).
local function append_effects(base, count, at, stamp, lost)
  local part = at + 2 * count
  for number = 1, count do
    local stream, shapes, sources = KEYS[base + number], ARGV[at], ARGV[at + 1]
    at = at + 2
    if sources == '' or not next(lost) then
      local _
      _, part = append_records(stream, stamp, shapes, part)
    else
      local place = 0
      for source in string.gmatch(sources, '%d+') do
        place = place + 1
        local shape = string.byte(shapes, place) - 48
        if lost[tonumber(source)] then
          part = skip_record(shape, part)
        else
          local _
          _, part = append_record(stream, stamp, shape, part)
        end
      end
    end
  end
end
