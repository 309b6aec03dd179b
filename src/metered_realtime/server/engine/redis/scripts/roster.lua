-- uses: base members
return members()
