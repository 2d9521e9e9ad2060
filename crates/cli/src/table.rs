//! Plain tables: columns as wide as their widest cell, numbers to the right.

/// How a column is aligned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// Rows under a header.
#[derive(Debug)]
pub struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table. A column whose title begins with `>` is aligned to the right.
    pub fn new(titles: &[&str]) -> Table {
        let columns = titles
            .iter()
            .map(|title| match title.strip_prefix('>') {
                Some(rest) => (rest.to_owned(), Align::Right),
                None => ((*title).to_owned(), Align::Left),
            })
            .collect();
        Table { columns, rows: Vec::new() }
    }

    /// Adds a row; missing cells are empty, further ones are dropped.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// The table as text, each line ended by a newline and without blanks at its end.
    pub fn render(&self) -> String {
        let titles: Vec<String> = self.columns.iter().map(|(title, _)| title.clone()).collect();
        let widths: Vec<usize> = (0..self.columns.len()).map(|column| self.width(column)).collect();
        let mut out = self.line(&titles, &widths);
        for row in &self.rows {
            out.push_str(&self.line(row, &widths));
        }
        out
    }

    fn width(&self, column: usize) -> usize {
        let cells = self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([self.columns[column].0.chars().count()]).max().unwrap_or(0)
    }

    fn line(&self, cells: &[String], widths: &[usize]) -> String {
        let mut out = String::new();
        for (column, width) in widths.iter().copied().enumerate() {
            let cell = cells.get(column).map_or("", String::as_str);
            let padded = match self.columns[column].1 {
                Align::Left => format!("{cell:<width$}  "),
                Align::Right => format!("{cell:>width$}  "),
            };
            out.push_str(&padded);
        }
        out.truncate(out.trim_end().len());
        out.push('\n');
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["name", ">bytes"]);
        table.row(vec!["a".into(), "12345678".into()]);
        table.row(vec!["longer".into(), "1".into()]);
        assert_eq!(table.render(), "name       bytes\na       12345678\nlonger         1\n");
    }

    #[test]
    fn short_rows_are_filled() {
        let mut table = Table::new(&["a", "b"]);
        table.row(vec!["x".into()]);
        assert_eq!(table.render(), "a  b\nx\n");
    }
}
