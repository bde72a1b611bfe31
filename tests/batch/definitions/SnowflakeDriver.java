package net.snowflake.client.jdbc;

import java.sql.Connection;
import java.sql.Driver;
import java.sql.DriverPropertyInfo;
import java.sql.SQLException;
import java.util.Properties;
import java.util.logging.Logger;

/** Stands in for Snowflake's driver: takes its URLs, and has an H2 database behind it. */
public final class SnowflakeDriver implements Driver {
    private static final String BEHIND = "jdbc:h2:file:@PLACE@";
    private final Driver h2;

    public SnowflakeDriver() throws ReflectiveOperationException {
        h2 = (Driver) Class.forName("org.h2.Driver").getDeclaredConstructor().newInstance();
    }

    @Override
    public boolean acceptsURL(String url) {
        return url.startsWith("jdbc:snowflake:");
    }

    @Override
    public Connection connect(String url, Properties given) throws SQLException {
        if (!acceptsURL(url)) {
            return null;
        }
        Properties user = new Properties();
        user.setProperty("user", given.getProperty("user", ""));
        user.setProperty("password", given.getProperty("password", ""));
        return h2.connect(BEHIND, user);
    }

    @Override
    public DriverPropertyInfo[] getPropertyInfo(String url, Properties given) {
        return new DriverPropertyInfo[0];
    }

    @Override
    public int getMajorVersion() {
        return 3;
    }

    @Override
    public int getMinorVersion() {
        return 12;
    }

    @Override
    public boolean jdbcCompliant() {
        return false;
    }

    @Override
    public Logger getParentLogger() {
        return Logger.getGlobal();
    }
}
