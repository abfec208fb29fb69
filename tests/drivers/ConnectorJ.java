// Connector/J against a warehouse that holds shop.sql: java -cp mysql-connector-j.jar ConnectorJ.java PORT [PASSWORD]

import java.math.BigDecimal;
import java.sql.*;
import java.util.ArrayList;
import java.util.List;

public class ConnectorJ {
    static void equal(Object got, Object wanted) {
        if (got == null ? wanted != null : !got.equals(wanted)) {
            throw new AssertionError(got + " is not " + wanted);
        }
    }

    static List<String> column(ResultSet rows, String name) throws SQLException {
        List<String> out = new ArrayList<>();
        while (rows.next()) {
            out.add(rows.getString(name));
        }
        rows.close();
        return out;
    }

    interface Call {
        void run() throws SQLException;
    }

    static void fails(int number, Call call) {
        try {
            call.run();
        } catch (SQLException e) {
            equal(e.getErrorCode(), number);
            return;
        }
        throw new AssertionError("no error " + number);
    }

    static void values(Connection c) throws SQLException {
        String sql = "SELECT id, name, born, seen, score, weight, active, small, doc FROM people WHERE id >= ? ORDER BY id";
        try (PreparedStatement s = c.prepareStatement(sql)) {
            for (int round = 0; round < 3; round++) {
                s.setLong(1, 1);
                ResultSet r = s.executeQuery();
                equal(r.next(), true);
                equal(r.getLong("id"), 1L);
                equal(r.getString("name"), "Ada");
                equal(r.getDate("born").toString(), "1815-12-10");
                equal(r.getTimestamp("seen").toLocalDateTime().toString(), "2024-02-29T12:34:56.789012");
                equal(r.getBigDecimal("score"), new BigDecimal("1.500"));
                equal(r.getDouble("weight"), 0.25);
                equal(r.getBoolean("active"), true);
                equal(r.getInt("small"), -7);
                equal(r.getString("doc").replace(" ", ""), "{\"a\":[1,2]}");
                equal(r.next(), true);
                equal(r.getString(2), "Grüße 🙂");
                equal(r.getObject(3), null);
                equal(r.getObject(5), null);
                equal(r.getInt("small"), 0);
                equal(r.wasNull(), true);
                equal(r.next(), true);
                equal(r.getLong(1), 9007199254740993L);
                equal(r.getString(2), "it's \"quoted\" \\ here");
                equal(r.getBigDecimal(5), new BigDecimal("-123456789.125"));
                equal(r.getDouble(6), 12500000.5);
                equal(r.next(), false);
                r.close();
            }
        }
        try (PreparedStatement s = c.prepareStatement("SELECT name FROM people WHERE name = ? OR born = ? OR score < ?")) {
            s.setString(1, "Grüße 🙂");
            s.setDate(2, Date.valueOf("1815-12-10"));
            s.setBigDecimal(3, new BigDecimal("-1"));
            equal(column(s.executeQuery(), "name").size(), 3);
        }
    }

    static void changes(Connection c) throws SQLException {
        try (PreparedStatement s = c.prepareStatement("INSERT INTO parts VALUES (?, ?, ?)")) {
            for (int i = 0; i < 50; i++) {
                s.setInt(1, i);
                s.setString(2, "b" + i);
                s.setObject(3, i % 5 == 0 ? null : "v" + i);
                s.addBatch();
            }
            equal(s.executeBatch().length, 50);
        }
        try (Statement s = c.createStatement()) {
            equal(s.executeUpdate("DELETE FROM parts WHERE a >= 40"), 10);
            ResultSet r = s.executeQuery("SELECT COUNT(*) AS n, COUNT(v) AS m FROM parts");
            r.next();
            equal(r.getInt("n"), 40);
            equal(r.getInt("m"), 32);
            s.executeUpdate("DELETE FROM parts");
        }
    }

    static void browsing(Connection c) throws SQLException {
        DatabaseMetaData m = c.getMetaData();
        equal(column(m.getCatalogs(), "TABLE_CAT").contains("drivers"), true);
        equal(column(m.getTables("drivers", null, "%", new String[] {"TABLE"}), "TABLE_NAME"), List.of("parts", "people"));
        equal(column(m.getColumns("drivers", null, "parts", "%"), "COLUMN_NAME"), List.of("a", "b", "v"));
        ResultSet r = m.getColumns("drivers", null, "people", "score");
        r.next();
        equal(r.getInt("DATA_TYPE"), Types.DECIMAL);
        equal(r.getInt("COLUMN_SIZE"), 12);
        equal(r.getInt("DECIMAL_DIGITS"), 3);
        r.close();
        equal(column(m.getPrimaryKeys("drivers", null, "parts"), "COLUMN_NAME"), List.of("a", "b"));
        equal(column(m.getPrimaryKeys("drivers", null, "people"), "COLUMN_NAME"), List.of("id"));
        try (Statement s = c.createStatement()) {
            ResultSetMetaData d = s.executeQuery("SELECT id, score AS points FROM people").getMetaData();
            equal(d.getColumnCount(), 2);
            equal(d.getColumnLabel(2), "points");
            equal(d.getColumnType(1), Types.BIGINT);
            equal(d.getScale(2), 3);
            equal(column(s.executeQuery("SHOW TABLES"), "Tables_in_drivers"), List.of("parts", "people"));
            equal(column(s.executeQuery("SHOW FULL COLUMNS FROM parts"), "Key"), List.of("PRI", "PRI", ""));
        }
        equal(c.isValid(5), true);
    }

    static void errors(Connection c) {
        fails(1146, () -> c.createStatement().executeQuery("SELECT * FROM nothing"));
        fails(1054, () -> c.prepareStatement("SELECT nothing FROM people WHERE id = 1").executeQuery());
        fails(1406, () -> c.createStatement().execute("INSERT INTO parts VALUES (1, 'eleven char', NULL)"));
        fails(1264, () -> c.createStatement().execute("INSERT INTO parts VALUES (3000000000, 'b', NULL)"));
        fails(1048, () -> c.createStatement().execute("INSERT INTO parts VALUES (1, NULL, NULL)"));
        fails(1064, () -> c.createStatement().execute("SELEC 1"));
        fails(1049, () -> c.setCatalog("nowhere"));
    }

    public static void main(String[] args) throws Exception {
        String password = args.length > 1 ? args[1] : "";
        String url = "jdbc:mysql://127.0.0.1:" + args[0] + "/drivers?user=root&password=" + password;
        for (String options : new String[] {
            "&sslMode=DISABLED&allowPublicKeyRetrieval=true",
            "&sslMode=REQUIRED",
            "&sslMode=REQUIRED&useInformationSchema=true",
            "&sslMode=REQUIRED&useServerPrepStmts=true&cachePrepStmts=true",
            "&sslMode=PREFERRED&useServerPrepStmts=true&useCursorFetch=false&rewriteBatchedStatements=true",
        }) {
            try (Connection c = DriverManager.getConnection(url + options)) {
                values(c);
                changes(c);
                browsing(c);
                errors(c);
                values(c);
            } catch (Throwable e) {
                System.err.println("with " + options);
                throw e;
            }
        }
        fails(1045, () -> DriverManager.getConnection("jdbc:mysql://127.0.0.1:" + args[0] + "/?user=root&password=wrong!"));
        System.out.println("Connector/J is content");
    }
}
