# Flattens the subset of YAML that the seed is written in (docs/guest.md) into lines `path<TAB>value`:
#   ethernets.nic0.addresses.0	10.1.0.2/24
# Block maps and lists, flow maps and lists on one line, plain, 'single' and "double" quoted scalars, comments.
# No anchors, tags, documents, multi-line scalars or tabs.

function emit(path, value) {
	gsub(/[\n\t]/, " ", value)
	print path "\t" value
}

function blanks() {
	while (at <= length(text) && substr(text, at, 1) == " ") at++
}

function hex(digits,   i, n) {
	for (i = 1; i <= length(digits); i++)
		n = n * 16 + index("0123456789abcdef", tolower(substr(digits, i, 1))) - 1
	return n
}

function utf8(code) {
	if (code < 128) return sprintf("%c", code)
	if (code < 2048) return sprintf("%c%c", 192 + int(code / 64), 128 + code % 64)
	if (code < 65536) return sprintf("%c%c%c", 224 + int(code / 4096), 128 + int(code / 64) % 64, 128 + code % 64)
	return sprintf("%c%c%c%c", 240 + int(code / 262144), 128 + int(code / 4096) % 64, 128 + int(code / 64) % 64, 128 + code % 64)
}

function double_quoted(   c, out) {
	for (at++; at <= length(text); at++) {
		c = substr(text, at, 1)
		if (c == "\"") { at++; return out }
		if (c != "\\") { out = out c; continue }
		c = substr(text, ++at, 1)
		if (c == "n") out = out "\n"
		else if (c == "t") out = out "\t"
		else if (c == "u") { out = out utf8(hex(substr(text, at + 1, 4))); at += 4 }
		else if (c == "U") { out = out utf8(hex(substr(text, at + 1, 8))); at += 8 }
		else out = out c
	}
	return out
}

function single_quoted(   c, out) {
	for (at++; at <= length(text); at++) {
		c = substr(text, at, 1)
		if (c != "'") { out = out c; continue }
		if (substr(text, at + 1, 1) != "'") { at++; return out }
		out = out "'"; at++
	}
	return out
}

# `ends` matches the character that ends a plain scalar; "" is the end of the line.
function scalar(ends,   c, from, out) {
	blanks()
	c = substr(text, at, 1)
	if (c == "\"") return double_quoted()
	if (c == "'") return single_quoted()
	for (from = at; at <= length(text); at++) {
		c = substr(text, at, 1)
		if (ends != "" && index(ends, c) && (c != ":" || substr(text, at + 1, 1) ~ /^ ?$/)) break
		if (c == "#" && substr(text, at - 1, 1) == " ") { out = substr(text, from, at - from); at = length(text) + 1; sub(/ +$/, "", out); return out }
	}
	out = substr(text, from, at - from)
	sub(/ +$/, "", out)
	return out
}

function flow(path, ends,   c, n, key) {
	blanks()
	c = substr(text, at, 1)
	if (c == "[") {
		at++; n = 0
		while (at <= length(text)) {
			blanks()
			c = substr(text, at, 1)
			if (c == "]") { at++; return }
			if (c == ",") { at++; continue }
			flow(path "." n++, ",]")
		}
	} else if (c == "{") {
		at++
		while (at <= length(text)) {
			blanks()
			c = substr(text, at, 1)
			if (c == "}") { at++; return }
			if (c == ",") { at++; continue }
			key = scalar(":")
			blanks()
			at++
			flow(path "." key, ",}")
		}
	} else emit(path, scalar(ends))
}

function join(parent, key) { return parent == "" ? key : parent "." key }

{
	sub(/\r$/, "")
	if (/^ *(#|$)/ || /^---/) next
	text = $0
	at = 1
	blanks()
	indent = at - 1
	while (substr(text, at) ~ /^-( |$)/) {
		while (depth && (indents[depth] > indent || (indents[depth] == indent && items[depth]))) depth--
		path = join(paths[depth], counts[paths[depth]]++)
		depth++; indents[depth] = indent; paths[depth] = path; items[depth] = 1
		at++
		blanks()
		indent = at - 1
	}
	if (at > length(text)) next
	rest = substr(text, at)
	if (rest !~ /^[A-Za-z0-9_.\/-]+:( |$)/ && rest !~ /^"[^"]*":( |$)/) {
		flow(paths[depth], "")
		next
	}
	while (depth && indents[depth] >= indent && !(items[depth] && indents[depth] < indent)) depth--
	key = scalar(":")
	at++
	blanks()
	path = join(paths[depth], key)
	if (at > length(text) || substr(text, at, 1) == "#") {
		depth++; indents[depth] = indent; paths[depth] = path; items[depth] = 0
	} else flow(path, "")
}
