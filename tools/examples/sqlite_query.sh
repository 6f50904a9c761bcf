#!/bin/sh
# Ask a SQLite database that lies on a web server or in an object store: only the pages that the query touches are
# fetched.
#
#   sqlite_query.sh https://host/db.sqlite 'SELECT ...'
#
# immutable=1: the file cannot change under the query, as vmofs ends with an error where the source does; so SQLite takes
# no locks and looks for no journal beside it. A read that fails is exit code 9, whatever sqlite3 makes of it.
exec vmofs run "$1" -- sqlite3 "file:{}?immutable=1" "$2"
