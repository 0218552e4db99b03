-- Which commands the user may not send. What the server does not know counts as such.
--
-- ARGV  commands, as an ACL names them: `xadd`, `xgroup|create`
-- Reply those that it may not
-- Caller: acl.py

local missing = {}
for _, command in ipairs(ARGV) do
  local name, sub = string.match(command, '^([^|]+)|?(.*)$')
  local is_known, may
  if sub == '' then
    is_known, may = pcall(redis.acl_check_cmd, name)
  else
    is_known, may = pcall(redis.acl_check_cmd, name, sub)
  end
  if not (is_known and may) then missing[#missing + 1] = command end
end
return missing
