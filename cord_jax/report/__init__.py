"""One HTML page of one or several runs, which needs neither network nor server: `page.write_report`.

`runs` reads run directories, without changing them. Each file in `sections` turns runs into tables and charts, which
`drawing` draws; `viewers` packs trees and samples for the scripts in `assets`; `page` puts all of it together.
"""
