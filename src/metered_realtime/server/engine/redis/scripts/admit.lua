-- uses: usage
-- ARGV: node, its number of connections, their maximum over all nodes (-1: none), its name here, then the nodes of
-- replaced ones. The name tells those who sweep a former one that the count is of a later one.
local node, count, limit = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local before = connections_of(node)
for at = 8, #ARGV do
  local left, name = connections_of(ARGV[at])
  if ARGV[at] ~= node and left > 0 then
    set_connections(ARGV[at], left - 1, name)
  end
end
local connections = total() - before + count
if limit >= 0 and connections > limit then
  return 0
end
set_connections(node, count, ARGV[7])
note_peak(connections)
keep()
return 1
