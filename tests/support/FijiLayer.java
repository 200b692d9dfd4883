import ij.IJ;
import ij.Menus;
import ij.macro.Interpreter;
import java.io.BufferedReader;
import java.io.File;
import java.io.IOException;
import java.io.Reader;
import java.lang.reflect.Method;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.stream.Collectors;
import javax.script.ScriptEngine;
import javax.script.SimpleBindings;
import net.imagej.patcher.LegacyEnvironment;
import net.imagej.patcher.LegacyHooks;
import net.imagej.patcher.LegacyInjector;
import org.scijava.Context;
import org.scijava.MenuPath;
import org.scijava.display.Display;
import org.scijava.display.DisplayService;
import org.scijava.module.Module;
import org.scijava.module.ModuleService;
import org.scijava.plugin.Plugin;
import org.scijava.script.AbstractScriptEngine;
import org.scijava.script.AbstractScriptLanguage;
import org.scijava.script.ScriptInfo;
import org.scijava.script.ScriptLanguage;
import org.scijava.script.ScriptModule;
import org.scijava.script.ScriptService;
import org.scijava.thread.ThreadService;

/**
 * ImageJ with its windows, patched as in Fiji: a macro of the menu is a script of SciJava, and its outputs are shown.
 *
 * Of Fiji are ImageJ, ij1-patcher, and SciJava, which finds the scripts, runs them as modules, and makes a display of
 * each output, which a user interface then opens as a window. What ties these together in Fiji is imagej-legacy, which
 * Maven Central does not have: the classes below do what it does for macros.
 */
public class FijiLayer {

  private static final BlockingQueue<String> finished = new LinkedBlockingQueue<>(); // commands
  private static Path folder;

  /**
   * Run the steps in FOLDER/steps.txt, and write what comes of them to said.txt: "pick COMMAND", as a user does from
   * the menu, or a line of macro code, whose value is said. Arguments: the folder of ImageJ, and FOLDER.
   */
  public static void main(String[] args) throws Exception {
    folder = Path.of(args[1]);
    ClassLoader loader = Thread.currentThread().getContextClassLoader();
    LegacyEnvironment environment = new LegacyEnvironment(loader, false);
    environment.disableInitializer();
    environment.noPluginClassLoader();
    environment.suppressIJ1ScriptDiscovery(); // ImageJ itself leaves macros out of its menu: they are SciJava's
    environment.applyPatches();
    Hooks hooks = new Hooks(new Context());
    LegacyInjector.installHooks(loader, hooks);
    environment.newImageJ1(false);
    hooks.addScripts(new File(args[0], "plugins"));
    for (String step : Files.readAllLines(folder.resolve("steps.txt"))) {
      if (step.startsWith("pick ")) {
        String command = step.substring(5);
        finished.clear();
        IJ.doCommand(command); // in a thread of its own, as by the menu
        while (!finished.take().equals(command)); // it may have started others
      } else say("macro: " + IJ.runMacro(step));
    }
    Files.writeString(folder.resolve("done.txt"), "done");
  }

  static synchronized void say(String line) throws IOException {
    String text = line.replace('\n', '|') + "\n";
    Files.writeString(folder.resolve("said.txt"), text, StandardOpenOption.CREATE, StandardOpenOption.APPEND);
  }

  /** What the patched ImageJ asks: whose a command is, and which threads, one by the other, began what runs. */
  static class Hooks extends LegacyHooks {
    private final Context context;
    private final Map<String, ScriptInfo> scripts = new HashMap<>();

    Hooks(Context context) {
      this.context = context;
    }

    void addScripts(File plugins) {
      ScriptService service = context.service(ScriptService.class);
      service.addScriptDirectory(plugins, new MenuPath("Plugins"));
      for (ScriptInfo info : service.getScripts()) {
        if (info.getMenuPath().isEmpty() || !new File(info.getPath()).getName().contains("_")) continue;
        scripts.put(info.getIdentifier(), info);
        Menus.getCommands().put(info.getMenuPath().getLeaf().getName(), info.getIdentifier());
      }
    }

    @Override
    public Object interceptRunPlugIn(String name, String argument) {
      ScriptInfo info = scripts.get(name);
      if (info == null) return null;
      String command = info.getMenuPath().getLeaf().getName();
      try {
        Module module = context.service(ModuleService.class).run(info, true).get();
        List<Display<?>> shown = context.service(DisplayService.class).getDisplays();
        String windows = shown.stream().map(Display::getName).collect(Collectors.joining(" "));
        say(command + ": " + module.getOutput(ScriptModule.RETURN_VALUE) + ", shown: [" + windows + "]");
        for (Display<?> display : shown) display.close();
        return module;
      } catch (Exception error) {
        throw new RuntimeException(error);
      } finally {
        finished.add(command);
      }
    }

    @Override
    public Iterable<Thread> getThreadAncestors() {
      ThreadService service = context.service(ThreadService.class);
      List<Thread> ancestors = new ArrayList<>();
      for (Thread thread = Thread.currentThread(); thread != null && !ancestors.contains(thread); ) {
        ancestors.add(thread);
        thread = service.getParent(thread);
      }
      return ancestors;
    }
  }

  /** The language of files .ijm. */
  @Plugin(type = ScriptLanguage.class, name = "IJ1 Macro")
  public static class MacroLanguage extends AbstractScriptLanguage {
    @Override
    public List<String> getExtensions() {
      return List.of("ijm");
    }

    @Override
    public ScriptEngine getScriptEngine() {
      return new MacroEngine();
    }
  }

  /** A macro's value is what its top-level `return` gives, if nobody cancelled it. */
  static class MacroEngine extends AbstractScriptEngine {
    MacroEngine() {
      engineScopeBindings = new SimpleBindings();
    }

    @Override
    public Object eval(String macro) {
      try {
        // Fiji hands a script's inputs over in such a call before the macro, and a function behind it; ours has none.
        String value = IJ.runMacro("var ; initialize(); " + macro + "\nfunction initialize() {\n}\n");
        return "[aborted]".equals(value) ? null : value;
      } finally {
        forgetInterpreter();
      }
    }

    @Override
    public Object eval(Reader reader) {
      return eval(new BufferedReader(reader).lines().collect(Collectors.joining("\n")));
    }

    /** As Fiji does after each macro, though another one may still run. */
    private static void forgetInterpreter() {
      try {
        Method method = Interpreter.class.getDeclaredMethod("setInstance", Interpreter.class);
        method.setAccessible(true);
        method.invoke(null, new Object[] {null});
      } catch (ReflectiveOperationException error) {
        throw new RuntimeException(error);
      }
    }
  }
}
