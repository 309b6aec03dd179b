-- The messages of a channel or peer: a list whose last element has the offset in meta. Each begins with its time.

-- Drop the oldest elements beyond the bounds, at most `budget` of them.
local function trim(limits, bytes, budget)
  local count = redis.call('LLEN', LOG)
  local before = bytes
  while count > 0 and budget > 0 do
    if count <= limits.count and bytes <= limits.bytes then
      local oldest = redis.call('LINDEX', LOG, 0)
      if tonumber(oldest:match('^%d+')) + limits.age > NOW then
        break
      end
    end
    bytes = bytes - #redis.call('LPOP', LOG)
    count = count - 1
    budget = budget - 1
  end
  if bytes ~= before then
    redis.call('HSET', META, 'bytes', bytes)
  end
  return count
end

local function limits_at(at)
  return {count = tonumber(ARGV[at]), bytes = tonumber(ARGV[at + 1]), age = tonumber(ARGV[at + 2])}
end

-- Add a message and return its offset. One message seldom displaces more than a few.
local function append(message, limits)
  local offset = redis.call('HINCRBY', META, 'offset', 1)
  local element = string.format('%.0f', NOW) .. '\0' .. message
  redis.call('RPUSH', LOG, element)
  trim(limits, redis.call('HINCRBY', META, 'bytes', #element), 64)
  return offset
end

-- Return how many messages after a position are gone (-1: nobody knows), the offset of the first one kept, and those.
local function missed(epoch, offset, since_epoch, since_offset, limits)
  local count = trim(limits, tonumber(redis.call('HGET', META, 'bytes')), limits.count + 1)
  local first = offset - count + 1
  local lost, from = -1, first
  if since_epoch == epoch and since_offset > offset then
    from = offset + 1
  elseif since_epoch == epoch then
    from = math.max(since_offset + 1, first)
    lost = from - since_offset - 1
  end
  return {lost, from, redis.call('LRANGE', LOG, from - first, -1)}
end

-- A storage that lost its latest writes goes on with another epoch, and without messages that somebody may have had.
local function renew_if_behind(epoch, seq, offset, known_epoch, known_seq, known_offset)
  if epoch ~= known_epoch or (seq >= known_seq and offset >= known_offset) then
    return epoch
  end
  redis.call('HSET', META, 'epoch', FRESH, 'bytes', 0)
  redis.call('DEL', LOG)
  return FRESH
end
