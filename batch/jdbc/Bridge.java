package prediction.batch;

import java.math.BigDecimal;
import java.nio.charset.StandardCharsets;
import java.sql.Date;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.ResultSetMetaData;
import java.sql.SQLException;
import java.sql.SQLFeatureNotSupportedException;
import java.sql.Timestamp;
import java.sql.Types;
import java.time.Instant;
import java.time.LocalDate;
import java.time.LocalDateTime;
import java.time.OffsetDateTime;
import java.time.ZoneOffset;
import java.util.Arrays;
import java.util.Calendar;
import java.util.TimeZone;

/** Rows of a ResultSet as one array per column, and such arrays as batches of a PreparedStatement. */
public final class Bridge {
    // Kinds of columns, as batch/jdbc/columns.py numbers them.
    static final int BOOL = 0, INT = 1, LONG = 2, FLOAT = 3, DOUBLE = 4, DATE = 5, TIME = 6, INSTANT = 7, DECIMAL = 8, TEXT = 9;
    static final int[] SQL_TYPES = {
        Types.BOOLEAN, Types.INTEGER, Types.BIGINT, Types.REAL, Types.DOUBLE, Types.DATE, Types.TIMESTAMP,
        Types.TIMESTAMP_WITH_TIMEZONE, Types.DECIMAL, Types.VARCHAR
    };

    private Bridge() {}

    /** For every column: SQL type, precision, scale, 1 if signed. */
    public static int[][] typesOf(ResultSetMetaData about) throws SQLException {
        int[][] types = new int[about.getColumnCount()][];
        for (int c = 0; c < types.length; c++)
            types[c] = new int[] {
                about.getColumnType(c + 1), about.getPrecision(c + 1), about.getScale(c + 1), about.isSigned(c + 1) ? 1 : 0
            };
        return types;
    }

    /** For every column: its name, and its database's name of its type. */
    public static String[][] namesOf(ResultSetMetaData about) throws SQLException {
        String[][] names = new String[about.getColumnCount()][];
        for (int c = 0; c < names.length; c++)
            names[c] = new String[] {about.getColumnLabel(c + 1), about.getColumnTypeName(c + 1)};
        return names;
    }

    static long micros(LocalDateTime time) {
        return Math.addExact(Math.multiplyExact(time.toEpochSecond(ZoneOffset.UTC), 1_000_000L), time.getNano() / 1000);
    }

    static long micros(Timestamp time) {
        return Math.addExact(Math.multiplyExact(Math.floorDiv(time.getTime(), 1000L), 1_000_000L), time.getNanos() / 1000);
    }

    /** Takes blocks of rows from a cursor. */
    public static final class Reader {
        private final ResultSet rows;
        private final int[] kinds;
        private final int most;
        private final int budget;
        private final boolean adapts;
        private final boolean[] legacy;
        private final Calendar utc = Calendar.getInstance(TimeZone.getTimeZone("UTC"));
        private int fetched;
        private int[] used;
        private long bytes;
        /** By column: values; of text the UTF-8 bytes. */
        public Object[] data;
        /** By column: 1 where there is a value. */
        public byte[][] valid;
        /** By column of text: where each value begins and the last one ends. */
        public int[][] offsets;

        /** Blocks of at most so many rows, and hardly more than so many bytes; adapts: so does what the driver fetches. */
        public Reader(ResultSet rows, int[] kinds, int most, int budget, boolean adapts) {
            this.rows = rows;
            this.kinds = kinds;
            this.most = most;
            this.budget = budget;
            this.adapts = adapts;
            this.legacy = new boolean[kinds.length];
        }

        /** How many rows there are now; 0 at the end. */
        public int next() throws SQLException {
            int n = kinds.length;
            data = new Object[n];
            valid = new byte[n][most];
            offsets = new int[n][];
            used = new int[n];
            bytes = 0;
            for (int c = 0; c < n; c++) allocate(c);
            int r = 0;
            while (r < most && bytes < budget && rows.next()) {
                for (int c = 0; c < n; c++) {
                    try {
                        if (read(c, r)) valid[c][r] = 1;
                    } catch (ArithmeticException | java.time.DateTimeException e) {
                        throw new SQLException("column " + (c + 1) + " has a value out of range", "22003");
                    }
                }
                bytes += 8L * n;
                r++;
                if (r == 64 || r == 512 || r == most) adapt(r);
            }
            return r;
        }

        private void allocate(int c) {
            switch (kinds[c]) {
                case BOOL: data[c] = new byte[most]; break;
                case INT: case DATE: data[c] = new int[most]; break;
                case LONG: case TIME: case INSTANT: data[c] = new long[most]; break;
                case FLOAT: data[c] = new float[most]; break;
                case DOUBLE: data[c] = new double[most]; break;
                default: data[c] = new byte[most * 8]; offsets[c] = new int[most + 1];
            }
        }

        /** Large rows are fetched few at a time. */
        private void adapt(int r) throws SQLException {
            int wanted = (int) Math.max(16, Math.min(most, budget / Math.max(1, bytes / r)));
            if (adapts && (wanted > 2 * fetched || wanted < fetched / 2)) {
                rows.setFetchSize(wanted);
                fetched = wanted;
            }
        }

        private boolean read(int c, int r) throws SQLException {
            int i = c + 1;
            switch (kinds[c]) {
                case BOOL: {
                    boolean v = rows.getBoolean(i);
                    ((byte[]) data[c])[r] = (byte) (v ? 1 : 0);
                    return v || !rows.wasNull();
                }
                case INT: {
                    int v = rows.getInt(i);
                    ((int[]) data[c])[r] = v;
                    return v != 0 || !rows.wasNull();
                }
                case LONG: {
                    long v = rows.getLong(i);
                    ((long[]) data[c])[r] = v;
                    return v != 0 || !rows.wasNull();
                }
                case FLOAT: {
                    float v = rows.getFloat(i);
                    ((float[]) data[c])[r] = v;
                    return v != 0 || !rows.wasNull();
                }
                case DOUBLE: {
                    double v = rows.getDouble(i);
                    ((double[]) data[c])[r] = v;
                    return v != 0 || !rows.wasNull();
                }
                case DATE: return readDate(c, r);
                case TIME: case INSTANT: return readTime(c, r);
                case DECIMAL: return put(c, r, plain(rows.getString(i)));
                default: return put(c, r, rows.getString(i));
            }
        }

        private boolean readDate(int c, int r) throws SQLException {
            LocalDate day = null;
            if (!legacy[c]) {
                try {
                    day = rows.getObject(c + 1, LocalDate.class);
                } catch (SQLFeatureNotSupportedException | AbstractMethodError e) {
                    legacy[c] = true;
                }
            }
            if (legacy[c]) {
                Date old = rows.getDate(c + 1);
                day = old == null ? null : old.toLocalDate();
            }
            if (day == null) return false;
            ((int[]) data[c])[r] = Math.toIntExact(day.toEpochDay());
            return true;
        }

        private boolean readTime(int c, int r) throws SQLException {
            long value = 0;
            boolean given = false;
            if (!legacy[c]) {
                try {
                    if (kinds[c] == TIME) {
                        LocalDateTime time = rows.getObject(c + 1, LocalDateTime.class);
                        given = time != null;
                        if (given) value = micros(time);
                    } else {
                        OffsetDateTime time = rows.getObject(c + 1, OffsetDateTime.class);
                        given = time != null;
                        if (given) value = micros(time.withOffsetSameInstant(ZoneOffset.UTC).toLocalDateTime());
                    }
                } catch (SQLFeatureNotSupportedException | AbstractMethodError e) {
                    legacy[c] = true;
                }
            }
            if (legacy[c]) {
                Timestamp old = rows.getTimestamp(c + 1, utc);
                given = old != null;
                if (given) value = micros(old);
            }
            ((long[]) data[c])[r] = value;
            return given;
        }

        private static String plain(String number) {
            if (number == null || (number.indexOf('E') < 0 && number.indexOf('e') < 0)) return number;
            return new BigDecimal(number).toPlainString();
        }

        private boolean put(int c, int r, String text) {
            if (text != null) {
                byte[] encoded = text.getBytes(StandardCharsets.UTF_8);
                byte[] taken = (byte[]) data[c];
                int end = Math.addExact(used[c], encoded.length);
                if (end > taken.length) data[c] = taken = Arrays.copyOf(taken, (int) Math.max(Math.min(taken.length * 2L, 1 << 30), end));
                System.arraycopy(encoded, 0, taken, used[c], encoded.length);
                used[c] = end;
                bytes += encoded.length;
            }
            offsets[c][r + 1] = used[c];
            return text != null;
        }
    }

    /** Columns of rows that are to be written; text as in Reader. */
    public static final class Block {
        private final int[] kinds;
        private final Object[] data;
        private final byte[][] valid;
        private final int[][] offsets;
        /** The driver does not take the newer classes of dates and times; drivers say so in any way. */
        private boolean legacy;

        public Block(int[] kinds, Object[] data, byte[][] valid, int[][] offsets) {
            this.kinds = kinds;
            this.data = data;
            this.valid = valid;
            this.offsets = offsets;
        }

        /** Executes a statement whose parameters are these columns for the rows given; counts of changed rows. */
        public int[] execute(PreparedStatement to, int[] columns, int[] rows) throws SQLException {
            to.clearBatch();
            for (int r : rows) {
                for (int p = 0; p < columns.length; p++) bind(to, p + 1, columns[p], r);
                to.addBatch();
            }
            return to.executeBatch();
        }

        private void bind(PreparedStatement to, int p, int c, int r) throws SQLException {
            if (valid[c] != null && valid[c][r] == 0) {
                to.setNull(p, SQL_TYPES[kinds[c] == INSTANT ? TIME : kinds[c]]);
                return;
            }
            switch (kinds[c]) {
                case BOOL: to.setBoolean(p, ((byte[]) data[c])[r] != 0); break;
                case INT: to.setInt(p, ((int[]) data[c])[r]); break;
                case LONG: to.setLong(p, ((long[]) data[c])[r]); break;
                case FLOAT: to.setFloat(p, ((float[]) data[c])[r]); break;
                case DOUBLE: to.setDouble(p, ((double[]) data[c])[r]); break;
                case DATE: bindDate(to, p, LocalDate.ofEpochDay(((int[]) data[c])[r])); break;
                case TIME: case INSTANT: bindTime(to, p, kinds[c], ((long[]) data[c])[r]); break;
                case DECIMAL: to.setBigDecimal(p, new BigDecimal(text(c, r))); break;
                default: to.setString(p, text(c, r));
            }
        }

        private String text(int c, int r) {
            int start = offsets[c][r];
            return new String((byte[]) data[c], start, offsets[c][r + 1] - start, StandardCharsets.UTF_8);
        }

        private void bindDate(PreparedStatement to, int p, LocalDate day) throws SQLException {
            if (!legacy) {
                try {
                    to.setObject(p, day);
                    return;
                } catch (SQLException | AbstractMethodError e) {
                    legacy = true;
                }
            }
            to.setDate(p, Date.valueOf(day));
        }

        private void bindTime(PreparedStatement to, int p, int kind, long micros) throws SQLException {
            Instant instant =
                Instant.ofEpochSecond(Math.floorDiv(micros, 1_000_000L), Math.floorMod(micros, 1_000_000L) * 1000L);
            LocalDateTime time = LocalDateTime.ofInstant(instant, ZoneOffset.UTC);
            if (!legacy) {
                try {
                    to.setObject(p, kind == TIME ? time : time.atOffset(ZoneOffset.UTC));
                    return;
                } catch (SQLException | AbstractMethodError e) {
                    legacy = true;
                }
            }
            to.setTimestamp(p, Timestamp.valueOf(time), Calendar.getInstance(TimeZone.getTimeZone("UTC")));
        }
    }
}
