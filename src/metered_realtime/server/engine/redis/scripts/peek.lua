-- uses: base members
-- Returns how a channel is, without an entry.
local epoch, seq, offset = open()
keep()
return {epoch, seq, offset, members()}
