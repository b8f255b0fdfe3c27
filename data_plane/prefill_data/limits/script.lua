-- One bucket's account, as ledger.py keeps it, with the server's clock. KEYS[1]: a hash with
-- d (debt), t (microseconds), c (when it began), b (debt of lost accounts), and for every holder
-- 'units:lease end'.
local holder = 'h:' .. ARGV[1]
local rate, capacity, scale = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local lent, quota, lease, expire = ARGV[5] == 'lent', ARGV[5] == 'quota', tonumber(ARGV[6]), tonumber(ARGV[7])
local keep, back, extra = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])
local want, least = tonumber(ARGV[11]), tonumber(ARGV[12])
local told, told_born = tonumber(ARGV[13]), tonumber(ARGV[14])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local row = redis.call('HGETALL', KEYS[1])
local debt, at, born, before = 0, 0, 0, 0
if #row == 0 then born = now end
for i = 1, #row, 2 do
  if row[i] == 'd' then debt = tonumber(row[i + 1]) end
  if row[i] == 't' then at = tonumber(row[i + 1]) end
  if row[i] == 'c' then born = tonumber(row[i + 1]) end
  if row[i] == 'b' then before = tonumber(row[i + 1]) end
end
now = math.max(now, at)
-- Debt is paid off, but never below what is held: held units may be spent only now.
local held, mine, ended = 0, 0, {}
local function pass(till)
  debt = math.max(debt - rate * (till - at), held * scale)
  at = till
end
for i = 1, #row, 2 do
  local units, till = string.match(row[i + 1], '^(%d+):(%d+)$')
  if units then
    units, till = tonumber(units), tonumber(till)
    held = held + units
    if till <= now then
      ended[#ended + 1] = {till, units, row[i]}
    elseif row[i] == holder then
      mine = units
    end
  end
end
table.sort(ended, function(a, b) return a[1] < b[1] end)
for _, lost in ipairs(ended) do
  pass(lost[1])
  redis.call('HDEL', KEYS[1], lost[3])
  held = held - lost[2]
  if lent then debt = debt - lost[2] end
end
pass(now)
local fresh = math.max(0, keep - mine)
-- This server has lost the account that the holder was told of: what was spent and lent there comes
-- before this one, once, however many tell it. What the holder keeps is part of it.
if quota and told >= 0 and told_born ~= born then
  fresh = 0
  debt = debt + math.max(0, told - before)
  before = math.max(told, before)
end
if not quota then back = math.min(back, math.max(0, mine - keep)) end
debt = debt + math.max(fresh, extra) * scale
debt = math.max(debt - back * scale, (held - mine + keep) * scale)
if lent then debt = held - mine + keep end
local left = math.max(0, math.floor((capacity * scale - debt) / scale))
local granted = math.min(want, left)
if granted < least then granted = 0 end
debt = debt + granted * scale
local wait = 0
if granted < least then
  if rate > 0 then
    wait = math.max(1, math.ceil((debt + (least - capacity) * scale) / rate))
  else
    wait = -1
  end
end
redis.call('HSET', KEYS[1], 'd', string.format('%.0f', debt), 't', string.format('%.0f', now),
  'c', string.format('%.0f', born))
if before > 0 then redis.call('HSET', KEYS[1], 'b', string.format('%.0f', before)) end
if keep + granted > 0 then
  local till = string.format('%.0f:%.0f', keep + granted, now + lease)
  redis.call('HSET', KEYS[1], holder, till)
else
  redis.call('HDEL', KEYS[1], holder)
end
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', expire))
return {granted, left - granted, wait, born, quota and debt or 0}
