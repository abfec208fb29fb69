"""PyMySQL against a warehouse that holds shop.sql: python pymysql_client.py PORT [PASSWORD]"""

import datetime
import decimal
import json
import ssl
import sys

import pymysql
import pymysql.cursors

port, password = int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else ""


def connect(**more):
    return pymysql.connect(host="127.0.0.1", port=port, user="root", password=password, charset="utf8mb4", **more)


def ask(connection, sql, args=None):
    with connection.cursor() as cursor:
        cursor.execute(sql, args)
        return list(cursor.fetchall())


def equal(got, wanted):
    assert got == wanted, f"{got!r} is not {wanted!r}"


def fails(number, call):
    try:
        call()
    except pymysql.err.MySQLError as error:
        equal(error.args[0], number)
        return str(error.args[1])
    raise AssertionError(f"no error {number}")


plain = connect(database="drivers")
equal(plain.get_server_info().split(".")[0].isdigit(), True)

# Values of every kind, and parameters.
rows = ask(plain, "SELECT id, name, born, seen, score, weight, active, small, doc FROM people ORDER BY id")
equal(rows[0][:8], (1, "Ada", datetime.date(1815, 12, 10), datetime.datetime(2024, 2, 29, 12, 34, 56, 789012),
                    decimal.Decimal("1.500"), 0.25, 1, -7))
equal(json.loads(rows[0][8]), {"a": [1, 2]})
equal(rows[1], (2, "Grüße 🙂", None, None, None, None, 0, None, None))
equal(rows[2][:6], (9007199254740993, "it's \"quoted\" \\ here", datetime.date(9999, 12, 31),
                    datetime.datetime(1970, 1, 1), decimal.Decimal("-123456789.125"), 12500000.5))
equal(ask(plain, "SELECT id FROM people WHERE name = %s", ("it's \"quoted\" \\ here",)), [(9007199254740993,)])
equal(ask(plain, "SELECT name FROM people WHERE id IN (%s, %s) ORDER BY 1", (1, 2)), [("Ada",), ("Grüße 🙂",)])
with plain.cursor() as cursor:
    equal(cursor.executemany("INSERT INTO parts VALUES (%s, %s, %s)", [(i, f"b{i}", "x" * i) for i in range(100)]), 100)
    equal(cursor.execute("UPDATE parts SET v = %s WHERE a < %s", (None, 10)), 10)
    equal(cursor.execute("DELETE FROM parts WHERE a = 99"), 1)
plain.commit()
equal(ask(plain, "SELECT COUNT(*), COUNT(v), MAX(LENGTH(v)) FROM parts"), [(99, 89, 98)])

# Many rows, one by one.
with connect(cursorclass=pymysql.cursors.SSDictCursor) as streaming, streaming.cursor() as cursor:
    cursor.execute("SELECT p.a * 100 + q.a AS n FROM drivers.parts p, drivers.parts q ORDER BY n")
    equal(sum(1 for _ in cursor), 99 * 99)

# Browsing.
equal(ask(plain, "SHOW TABLES"), [("parts",), ("people",)])
equal(("drivers",) in ask(plain, "SHOW DATABASES"), True)
columns = {row[0]: row for row in ask(plain, "SHOW FULL COLUMNS FROM people")}
equal((columns["id"][1].split("(")[0], columns["id"][3], columns["id"][4], columns["id"][8]),
      ("bigint", "NO", "PRI", "the number"))
equal(columns["name"][4], "")
equal(ask(plain, "SELECT table_name, table_comment FROM information_schema.tables WHERE table_schema = 'drivers' ORDER BY 1"),
      [("parts", ""), ("people", "who is there")])
equal(ask(plain, "SELECT column_name, data_type FROM information_schema.columns WHERE table_schema = 'drivers' "
                 "AND table_name = 'parts' ORDER BY ordinal_position"),
      [("a", "int"), ("b", "varchar"), ("v", ask(plain, "SELECT data_type FROM information_schema.columns WHERE "
                                                      "column_name = 'v' AND table_name = 'parts'")[0][0])])
equal("UNIQUE KEY(`a`, `b`)" in ask(plain, "SHOW CREATE TABLE parts")[0][1], True)
equal(ask(plain, "SELECT @@session.time_zone IS NOT NULL, DATABASE()"), [(1, "drivers")])

# Errors leave the connection usable.
fails(1146, lambda: ask(plain, "SELECT * FROM nothing"))
fails(1054, lambda: ask(plain, "SELECT nothing FROM people"))
fails(1064, lambda: ask(plain, "SELEC 1"))
fails(1049, lambda: plain.select_db("nowhere"))
equal(ask(plain, "SELECT 1"), [(1,)])
plain.ping()

# TLS, and a password that is wrong.
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
with connect(ssl=context) as encrypted:
    equal(type(encrypted._sock).__name__, "SSLSocket")
    equal(ask(encrypted, "SELECT COUNT(*) FROM drivers.people"), [(3,)])
equal("root" in fails(1045, lambda: pymysql.connect(host="127.0.0.1", port=port, user="root", password="wrong!")), True)
with plain.cursor() as cursor:
    cursor.execute("DELETE FROM parts")
plain.close()
print("PyMySQL", pymysql.__version__, "is content")
