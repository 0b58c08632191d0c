package rowtide.servers;

import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.util.HashMap;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.function.Supplier;

/**
 * Starts a real Elasticsearch or OpenSearch node in this JVM, without the bootstrap of its distribution (which
 * refuses root and a small machine). By reflection, because both engines and several versions are started by it.
 * Arguments: HOME CONFIG_DIR [setting=value...]. Modules come from HOME/modules.
 */
public class SearchNode {
    private static String root;

    private static Class<?> type(String name) throws ClassNotFoundException {
        return Class.forName(root + name);
    }

    /** The public method of that name and number of parameters, or null. */
    private static Method method(Class<?> type, String name, int parameters) {
        for (Method method : type.getMethods()) {
            if (method.getName().equals(name) && method.getParameterCount() == parameters) return method;
        }
        return null;
    }

    public static void main(String[] arguments) throws Exception {
        boolean opensearch = exists("org.opensearch.node.Node");
        root = opensearch ? "org.opensearch." : "org.elasticsearch.";
        String prefix = opensearch ? "opensearch." : "es.";
        Path home = Paths.get(arguments[0]).toAbsolutePath();
        Path config = Paths.get(arguments[1]).toAbsolutePath();
        System.setProperty(prefix + "path.home", home.toString());
        System.setProperty(prefix + "path.conf", config.toString());

        Map<String, String> settings = new HashMap<>();
        settings.put("path.home", home.toString());
        for (int i = 2; i < arguments.length; i++) {
            String[] pair = arguments[i].split("=", 2);
            settings.put(pair[0], pair[1]);
        }
        try {
            Object node = makeNode(home, environment(settings, config));
            Method close = method(node.getClass(), "close", 0);
            method(node.getClass(), "start", 0).invoke(node);
            System.err.println("SearchNode: started");
            stayUntilStopped(node, close);
        } catch (InvocationTargetException error) {
            error.getCause().printStackTrace();
            System.exit(1);
        }
    }

    private static boolean exists(String name) {
        try {
            Class.forName(name);
            return true;
        } catch (ClassNotFoundException absent) {
            return false;
        }
    }

    private static Object environment(Map<String, String> settings, Path config) throws Exception {
        Class<?> logs = type("common.logging.LogConfigurator");
        method(logs, "registerErrorListener", 0).invoke(null);
        Method early = method(logs, "configureESLogging", 0);
        if (early != null) early.invoke(null);
        Supplier<String> name = () -> "node-1";
        Object empty = type("common.settings.Settings").getField("EMPTY").get(null);
        Object environment = method(type("node.InternalSettingsPreparer"), "prepareEnvironment", 4)
                .invoke(null, empty, settings, config, name);
        method(logs, "setNodeName", 1).invoke(null, "node-1");
        Method configure = method(logs, "configure", 2);
        if (configure != null) configure.invoke(null, environment, true);
        else method(logs, "configure", 1).invoke(null, environment);
        return environment;
    }

    private static Object makeNode(Path home, Object environment) throws Exception {
        Class<?> node = type("node.Node");
        Class<?> environmentType = type("env.Environment");
        if (!exists(root + "plugins.PluginsLoader")) {
            return node.getConstructor(environmentType).newInstance(environment);
        }
        // Late releases of Elasticsearch 8 load the plugins before the node.
        Class<?> plugins = type("plugins.PluginsLoader");
        Object loader = method(plugins, "createPluginsLoader", 3)
                .invoke(null, bundles(plugins, "loadModulesBundles", home.resolve("modules")),
                        bundles(plugins, "loadPluginsBundles", home.resolve("plugins")), Map.of());
        return node.getConstructor(environmentType, plugins).newInstance(environment, loader);
    }

    private static Object bundles(Class<?> plugins, String name, Path folder) throws Exception {
        Files.createDirectories(folder);
        Method load = method(plugins, name, 1);
        return load != null ? load.invoke(null, folder) : method(plugins, name, 2).invoke(null, folder, false);
    }

    private static void stayUntilStopped(Object node, Method close) throws InterruptedException {
        CountDownLatch stopped = new CountDownLatch(1);
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            try {
                close.invoke(node);
            } catch (ReflectiveOperationException error) {
                error.printStackTrace();
            }
            stopped.countDown();
        }));
        stopped.await();
    }
}
