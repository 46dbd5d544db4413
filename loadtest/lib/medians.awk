# Medians of `name metric kind value` lines: those of `left`, those of `right`, and their ratio.

function sort(values, n,   i, j, value) {
  for (i = 2; i <= n; i++) {
    value = values[i]
    for (j = i - 1; j > 0 && values[j] > value; j--) values[j + 1] = values[j]
    values[j + 1] = value
  }
}
function short(value) {
  if (value >= 1e6) return sprintf("%.2f M", value / 1e6)
  if (value >= 1e4) return sprintf("%.1f k", value / 1e3)
  if (value >= 100) return sprintf("%.0f", value)
  if (value >= 10) return sprintf("%.1f", value)
  return sprintf("%.3f", value)
}
function column(key,   n, i, sorted) {
  n = count[key]
  if (!n) { middle = ""; return "–" }
  for (i = 1; i <= n; i++) sorted[i] = figures[key, i]
  sort(sorted, n)
  middle = n % 2 ? sorted[(n + 1) / 2] : (sorted[n / 2] + sorted[n / 2 + 1]) / 2
  return sprintf("%s (%s–%s)", short(middle), short(sorted[1]), short(sorted[n]))
}
$3 == left || $3 == right {
  row = $1 " " $2
  if (!(row in seen)) { seen[row] = 1; rows[++n_rows] = row }
  key = row " " $3
  figures[key, ++count[key]] = $4 + 0
}
END {
  printf "%-16s %-28s %-26s %-26s %s\n", "scenario", "figure", left, right, right "/" left
  for (i = 1; i <= n_rows; i++) {
    split(rows[i], part, " ")
    left_column = column(rows[i] " " left); left_middle = middle
    right_column = column(rows[i] " " right); right_middle = middle
    ratio = left_middle > 0 && right_middle != "" ? sprintf("%.2f", right_middle / left_middle) : "–"
    printf "%-16s %-28s %-26s %-26s %s\n", part[1], part[2], left_column, right_column, ratio
  }
}
